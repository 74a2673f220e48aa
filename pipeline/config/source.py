"""Where raw samples come from: one section of the configuration tree.

In: plain values.  Out: a `SourceConfig`, or a `ValidationError` that names the field.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from pipeline.config.types import STRICT

SourceKind = Literal["parquet", "jsonl", "csv", "directory", "webdataset", "hf_dataset", "embeddings"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SourceConfig:
    """Where raw samples lie and which of their fields mean what; docs/sources.md shows every kind."""

    kind: SourceKind
    """A table (`parquet`, `jsonl`, `csv`, `hf_dataset`), files with captions beside them (`directory`, in tars:
    `webdataset`), or vectors that need no encoder (`embeddings`: Parquet or JSON Lines)."""
    path: str
    """Table, folder, tars (a pattern: `{000..003}`, `{a,b}`, `*`) or Hugging Face id; a local path (relative to the
    project's root), or a URI: `s3://`, `gs://`, `file://`."""
    name: str | None = None
    """`hf_dataset`: which of its configurations ("subsets"); None: its only one."""
    revision: str | None = None
    """`hf_dataset`: commit, tag or branch of a Hugging Face id; a commit gives the same rows for ever."""
    id_field: str = "id"
    """Column with a unique string per sample; files are named by their path instead."""
    caption_field: str = "caption"
    """Column (or field of a sample's JSON file) with a caption, or with a list of captions."""
    payload_field: str = "file"
    """Column with the signal itself or the path of its file; `directory`, `webdataset`: the file's extension, or
    several with commas between them (left alone: any but `txt` and `json`)."""
    payload: Literal["path", "bytes", "inline"] = "path"
    """`path`: relative to the table's folder; `bytes`: an encoded file in the cell; `inline`: the text in the cell."""
    split_field: str = "split"
    """Column with the split's name; a table without it is all `train`."""
    attribute_fields: tuple[str, ...] = ()
    """Columns carried into the shards and scored by exact attribute accuracy."""

    @model_validator(mode="after")
    def _usable(self) -> SourceConfig:
        if not self.path.strip() or "\0" in self.path:
            raise ValueError(f"path is {self.path!r}: give a table, a folder or tars")
        if "://" in self.path and ":" in urlsplit(self.path).netloc.rpartition("@")[0]:
            # The configuration is stored with every run and shown in tracking.
            raise ValueError("path carries a password: take it out and give credentials through the environment")
        if self.kind != "hf_dataset" and (self.name is not None or self.revision is not None):
            raise ValueError(f"name and revision belong to kind 'hf_dataset', got kind {self.kind!r}: remove them")
        return self

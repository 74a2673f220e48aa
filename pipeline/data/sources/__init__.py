"""Sources: data as its owner keeps it, described by a `SourceConfig`, as rows that any process reads by range.

In: tables, folders, tars, Hugging Face datasets and ready embeddings, here or in object storage.
Out: `Sample` rows, with a `BadRow` in the place of every row that cannot be one.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import SourceConfig
from pipeline.config.source import SourceKind
from pipeline.data.places import one_line
from pipeline.data.sample import BadRow
from pipeline.data.sources.base import Source
from pipeline.data.sources.directory import DirectorySource
from pipeline.data.sources.embeddings import EmbeddingsSource
from pipeline.data.sources.hugging_face import HuggingFaceSource
from pipeline.data.sources.table import TableSource
from pipeline.data.sources.webdataset import WebDatasetSource

__all__ = ["BadRow", "Source", "open_source"]

_SOURCES: dict[SourceKind, type[Source]] = {
    "parquet": TableSource,
    "jsonl": TableSource,
    "csv": TableSource,
    "directory": DirectorySource,
    "webdataset": WebDatasetSource,
    "hf_dataset": HuggingFaceSource,
    "embeddings": EmbeddingsSource,
}


def open_source(config: SourceConfig, root: Path) -> Source:
    """The source of a configuration; its files and columns are checked here, not in the middle of a run."""
    source = _SOURCES[config.kind](config, root)
    try:
        source.check()
    except OSError as error:
        raise ValueError(f"source.path: {source.name} cannot be read: {one_line(error)}") from error
    return source

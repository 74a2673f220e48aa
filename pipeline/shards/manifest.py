"""The manifest: what an embedding dataset is, and the proof that all of it is there.

In: a dataset's folder.  Out: a checked `Manifest`, or one `ValueError` that says what is wrong and what to do.

It is written last, atomically.  A dataset without a manifest does not exist.  The file is the canonical JSON of its
fields and their checksum, and is compared byte by byte, so that any change to it is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from pipeline.config.artifacts import write_text_atomic
from pipeline.config.errors import explain
from pipeline.config.schema import SignalKind, TokensConfig
from pipeline.shards.format import FORMAT_VERSION, EmbeddingForm, StorageDtype, parse_shard_name

MANIFEST_FILE = "manifest.json"
REJECTED_FILE = "rejected.parquet"

_STRICT = ConfigDict(extra="forbid")
_Count = Annotated[int, Field(ge=0)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FileEntry:
    """One file of a dataset."""

    name: str
    """File name, without any folder."""
    rows: _Count
    """Rows in it."""
    bytes: _Count
    """Its size."""
    sha256: _Sha256
    """Its hash."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EncoderRecord:
    """The model that made a column."""

    name: str
    """Short name in the configuration."""
    id: str
    """Hugging Face id or folder."""
    revision: str | None
    """Commit of the hub repository."""
    fingerprint: str
    """Weights, preprocessing, pooling and compute type."""
    width: Annotated[int, Field(ge=1)]
    """Length of its vectors, or of its tokens."""
    tokens: TokensConfig | None = None
    """How many tokens a row has at most, and how more became that many; None, and left out: one vector a row."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Manifest:
    """One embedding dataset."""

    format_version: int
    """Version of shards and manifest."""
    dataset: str
    """Name of the modality."""
    kind: SignalKind
    """How its signals were decoded."""
    content_key: str
    """Names everything that decided the rows."""
    source_fingerprint: str
    """Table and payload files that the rows were read from."""
    encoder: EncoderRecord
    """Model of the column `embedding`."""
    text_encoder: EncoderRecord
    """Model of the column `text_embedding`."""
    dtype: StorageDtype
    """Type of both columns."""
    rows: _Count
    """Rows of all shards."""
    splits: dict[str, _Count]
    """Rows of each split."""
    shards: tuple[FileEntry, ...]
    """Shards in the order of their rows."""
    rejected: FileEntry
    """Table of the rows that were kept out."""
    rejected_by_reason: dict[str, _Count]
    """How many were kept out, and why."""

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.encoder.width

    @property
    def form(self) -> EmbeddingForm:
        """What `embedding` holds for a row."""
        return "vectors" if self.encoder.tokens is None else "tokens"

    @property
    def text_width(self) -> int:
        """Length of a text embedding."""
        return self.text_encoder.width

    @model_validator(mode="after")
    def _adds_up(self) -> Manifest:
        indices = []
        for entry in self.shards:
            parsed = parse_shard_name(entry.name)
            if parsed is None or not entry.sha256.startswith(parsed[1]):
                raise ValueError(f"shard name {entry.name!r} is refused: it must be shard-<index>-<its hash>.arrow")
            indices.append(parsed[0])
        if indices != list(range(len(indices))):
            raise ValueError(f"shards must be numbered 0, 1, 2, ..., got {indices}")
        if self.rejected.name != REJECTED_FILE:
            raise ValueError(f"the rejected rows must lie in {REJECTED_FILE}, got {self.rejected.name!r}")
        if not self.rows == sum(entry.rows for entry in self.shards) == sum(self.splits.values()):
            raise ValueError(f"rows is {self.rows}, but shards or splits add up to another number")
        if self.rejected.rows != sum(self.rejected_by_reason.values()):
            raise ValueError("rejected rows and their reasons add up to different numbers")
        return self


def save_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest; from here on the dataset exists."""
    fields = asdict(manifest)
    for record in (fields["encoder"], fields["text_encoder"]):
        # Said only where it is so: manifests of vectors stay what they were before there were tokens.
        if record["tokens"] is None:
            del record["tokens"]
    write_text_atomic(directory / MANIFEST_FILE, _canonical(fields))


def load_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of the dataset in `directory`."""
    path = directory / MANIFEST_FILE
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"{directory} holds no embedding dataset ({MANIFEST_FILE} is missing): run jobs.extract_embeddings first"
        ) from error
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, path: str) -> Manifest:
    """Check the content of the manifest that was read from `path`."""
    try:
        text = content.decode("utf-8")
        fields = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(_damaged(path, "it is not JSON")) from error
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version is {version!r}, this code reads version {FORMAT_VERSION}: extract the dataset "
            f"again with jobs.extract_embeddings, or use the code that wrote it"
        )
    fields.pop("checksum", None)
    if text != _canonical(fields):
        raise ValueError(_damaged(path, "its checksum does not match"))
    try:
        return TypeAdapter(Manifest).validate_python(fields)
    except ValidationError as error:
        raise ValueError(_damaged(path, explain(error, Manifest))) from error


def _canonical(fields: Mapping[str, Any]) -> str:
    body = json.dumps(fields, sort_keys=True, allow_nan=False)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps({**fields, "checksum": checksum}, sort_keys=True, indent=1, allow_nan=False) + "\n"


def _damaged(path: str, reason: str) -> str:
    return f"{path} is damaged or was changed by hand ({reason}): extract the dataset again"

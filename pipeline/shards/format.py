"""The shard file: an uncompressed Arrow IPC file of plain types, named by its own content.

In: rows and the record of what they were made from.  Out: the schema, and how tables, records and names are written.

A shard's name carries the start of its SHA-256, so one rename makes a file that proves itself: a rerun after a crash
can tell a finished shard from a damaged one before any manifest exists.  Rejected rows travel in the shard's metadata
for the same reason: they are committed by the same rename.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FORMAT_VERSION = 1
StorageDtype = Literal["float32", "float16"]
EmbeddingForm = Literal["vectors", "tokens"]

_RECORD_KEY = b"semi.shard"
_DIGEST_DIGITS = 16
_NAME = re.compile(rf"shard-(\d{{5,}})-([0-9a-f]{{{_DIGEST_DIGITS}}})\.arrow")
_ARROW_DTYPE: dict[StorageDtype, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_QUOTED = re.compile(r"'[^']*'")
_NUMBER = re.compile(r"(?<![\w-])\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRow:
    """A row that was kept out of the shards."""

    source_row: int
    """Its row in the source."""
    id: str
    """Its id, as far as it could be read."""
    source: str
    """Where it came from, for a person to look at."""
    reason: str
    """What is counted: one of a few phrases, without this row's own values."""
    detail: str
    """The same with them."""

    @staticmethod
    def of(source_row: int, *, id: str, source: str, detail: str) -> RejectedRow:
        """Name the reason by the head of `detail`, its names and numbers left out."""
        # A memory address differs from run to run, and a rerun must write the same bytes.
        detail = _ADDRESS.sub("0x", detail)
        reason = _NUMBER.sub("N", _QUOTED.sub("…", detail.partition(": ")[0]))
        return RejectedRow(source_row=source_row, id=id, source=source, reason=reason, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What a shard was made from; two shards with equal records hold equal rows."""

    content_key: str
    """Names source, encoders, types and plan."""
    start: int
    """First source row."""
    stop: int
    """Source row behind the last one."""
    rejected: tuple[RejectedRow, ...] = ()
    """Rows of this range that were kept out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRows:
    """Token features of some rows, M tokens in all."""

    tokens_ME: npt.NDArray[np.floating]
    """Those of the first row, then those of the second, and so on."""
    counts_N: npt.NDArray[np.integer]
    """How many each row has."""


def shard_schema(width: int, text_width: int, dtype: StorageDtype, *, form: EmbeddingForm = "vectors") -> pa.Schema:
    """Columns of a shard; only plain Arrow types, readable by anything that reads Arrow."""
    number = _ARROW_DTYPE[dtype]
    vector = pa.list_(number, width)
    return pa.schema(
        [
            ("id", pa.string()),
            ("caption", pa.list_(pa.large_string())),
            ("embedding", vector if form == "vectors" else pa.list_(vector)),
            ("text_embedding", pa.list_(number, text_width)),
            ("split", pa.string()),
            ("attributes", pa.map_(pa.string(), pa.string())),
            ("source_row", pa.int64()),
        ]
    )


def vector_width(column: pa.DataType) -> int:
    """Length of the vectors, or of the tokens, in a column of either."""
    width: int = (column.value_type if pa.types.is_list(column) else column).list_size
    return width


def shard_table(
    *,
    ids: Sequence[str],
    captions: Sequence[Sequence[str]],
    embeddings_NE: npt.NDArray[np.floating] | TokenRows,
    text_embeddings_NW: npt.NDArray[np.floating],
    splits: Sequence[str],
    attributes: Sequence[Mapping[str, str]],
    source_rows: Sequence[int],
    dtype: StorageDtype,
) -> pa.Table:
    """Rows of one shard, each with a vector or with tokens; both embeddings are stored as `dtype`."""
    form: EmbeddingForm
    if isinstance(embeddings_NE, TokenRows):
        form, embeddings = "tokens", _tokens(embeddings_NE, dtype)
    else:
        form, embeddings = "vectors", _vectors(embeddings_NE, dtype)
    schema = shard_schema(vector_width(embeddings.type), text_embeddings_NW.shape[1], dtype, form=form)
    values: dict[str, object] = {
        "id": ids,
        "caption": captions,
        "embedding": embeddings,
        "text_embedding": _vectors(text_embeddings_NW, dtype),
        "split": splits,
        "attributes": [sorted(row.items()) for row in attributes],
        "source_row": source_rows,
    }
    columns = [
        value if isinstance(value := values[field.name], pa.Array) else pa.array(value, type=field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _vectors(vectors_ND: npt.NDArray[np.floating], dtype: StorageDtype) -> pa.Array:
    flat = np.ascontiguousarray(vectors_ND, dtype=dtype).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, type=_ARROW_DTYPE[dtype]), vectors_ND.shape[1])


def _tokens(rows: TokenRows, dtype: StorageDtype) -> pa.Array:
    offsets = pa.array(np.cumsum([0, *rows.counts_N], dtype=np.int64), type=pa.int32())
    return pa.ListArray.from_arrays(offsets, _vectors(rows.tokens_ME, dtype))


def with_record(table: pa.Table, record: ShardRecord) -> pa.Table:
    """The table with its record as schema metadata."""
    text = json.dumps({"format_version": FORMAT_VERSION, **asdict(record)}, sort_keys=True, separators=(",", ":"))
    return table.replace_schema_metadata({_RECORD_KEY: text.encode()})


def record_of(schema: pa.Schema) -> ShardRecord | None:
    """The record in a shard's schema; None where it is absent or of another format version."""
    text = (schema.metadata or {}).get(_RECORD_KEY)
    fields = json.loads(text) if text is not None else {}
    if fields.pop("format_version", None) != FORMAT_VERSION:
        return None
    rejected = tuple(RejectedRow(**row) for row in fields.pop("rejected"))
    return ShardRecord(**fields, rejected=rejected)


def shard_name(index: int, sha256: str) -> str:
    """File name of shard `index`."""
    return f"shard-{index:05d}-{sha256[:_DIGEST_DIGITS]}.arrow"


def parse_shard_name(name: str) -> tuple[int, str] | None:
    """Index and start of the SHA-256 in a shard's file name; None where `name` is not one (so no path is)."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), match[2]) if match else None

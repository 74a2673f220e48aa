"""The rows of one shard, from source to table; no files are written here.

In: a range of source rows, and frozen encoders.  Out: a table that holds every good row, and the reason of each other.

Shape suffixes: N rows, E width of the encoder, W width of the text encoder, D either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config.schema import SignalKind
from pipeline.data.decoders import DecodeError, decode
from pipeline.data.sample import BadRow, Sample
from pipeline.encoders.base import Encoder
from pipeline.shards.format import RejectedRow, StorageDtype, shard_table
from pipeline.signal import Signal

_Vectors = npt.NDArray[np.float32]


class RowSource(Protocol):
    """The part of a source that a shard needs."""

    def read(self, start: int, stop: int) -> Iterator[Sample | BadRow]:
        """One item for each row of the range, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpec:
    """Which source rows make a shard."""

    index: int
    """Its place in the dataset."""
    start: int
    """First source row."""
    stop: int
    """Source row behind the last one."""
    duplicates: tuple[int, ...] = ()
    """Source rows of the range whose id occurred before, anywhere in the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedRow:
    """A row that can be encoded."""

    source_row: int
    """Its row in the source."""
    sample: Sample
    """Id, captions and the rest; the payload is left out."""
    signal: Signal
    """The decoded payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedShard:
    """What decoding made of a range of source rows."""

    rows: tuple[DecodedRow, ...]
    """Good rows, in order."""
    rejected: tuple[RejectedRow, ...]
    """The others."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Vectors as they will be stored, and why some rows have none that can be used."""

    encoder: str
    """Fingerprint of the encoder."""
    vectors_ND: _Vectors
    """One vector a row."""
    problems: dict[int, str]
    """By position."""


def decode_shard(spec: ShardSpec, source: RowSource, kind: SignalKind) -> DecodedShard:
    """Read and decode the rows of `spec`."""
    rows, rejected = [], []
    items = zip(range(spec.start, spec.stop), source.read(spec.start, spec.stop), strict=True)
    for source_row, item in items:
        decoded = _decoded(item, kind) if source_row not in spec.duplicates else "duplicate id"
        if isinstance(decoded, str):
            rejected.append(RejectedRow.of(source_row, id=item.id, source=item.source, detail=decoded))
        else:
            sample, signal = decoded
            rows.append(DecodedRow(source_row=source_row, sample=replace(sample, payload=""), signal=signal))
    return DecodedShard(rows=tuple(rows), rejected=tuple(rejected))


def _decoded(item: Sample | BadRow, kind: SignalKind) -> tuple[Sample, Signal] | str:
    if isinstance(item, BadRow):
        return item.reason
    try:
        return item, decode(kind, item.payload)
    except DecodeError as error:
        return error.reason


def encode_texts(decoded: DecodedShard, text_encoder: Encoder, dtype: StorageDtype) -> Encoded:
    """Text embedding of each row's first caption."""
    return _encode([Signal(kind="text", text=caption) for caption in _first_captions(decoded)], text_encoder, dtype)


def _first_captions(decoded: DecodedShard) -> list[str]:
    return [row.sample.captions[0] for row in decoded.rows]


def encode_shard(
    decoded: DecodedShard, encoder: Encoder, texts: Encoded, dtype: StorageDtype
) -> tuple[pa.Table, tuple[RejectedRow, ...]]:
    """The shard's table, and all rows that it lacks in the order of the source."""
    signals = [row.signal for row in decoded.rows]
    # Text as a modality is mostly its own caption, and its first encoder the text encoder: that work is done already.
    known = encoder.fingerprint == texts.encoder and [signal.text for signal in signals] == _first_captions(decoded)
    embedded = texts if known else _encode(signals, encoder, dtype)
    problems = {index: f"text embedding {problem}" for index, problem in texts.problems.items()}
    problems = {index: f"embedding {problem}" for index, problem in embedded.problems.items()} | problems
    good = [index for index in range(len(decoded.rows)) if index not in problems]
    rows = [decoded.rows[index] for index in good]
    table = shard_table(
        ids=[row.sample.id for row in rows],
        captions=[row.sample.captions for row in rows],
        embeddings_NE=embedded.vectors_ND[good],
        text_embeddings_NW=texts.vectors_ND[good],
        splits=[row.sample.split for row in rows],
        attributes=[row.sample.attributes for row in rows],
        source_rows=[row.source_row for row in rows],
        dtype=dtype,
    )
    refused = [_rejected(decoded.rows[index], problem) for index, problem in problems.items()]
    return table, tuple(sorted([*decoded.rejected, *refused], key=lambda row: row.source_row))


def _rejected(row: DecodedRow, detail: str) -> RejectedRow:
    return RejectedRow.of(row.source_row, id=row.sample.id, source=row.sample.source, detail=detail)


def _encode(signals: Sequence[Signal], encoder: Encoder, dtype: StorageDtype) -> Encoded:
    vectors_ND = np.zeros((len(signals), encoder.width), dtype=np.float32)
    problems = dict(_fill(vectors_ND, signals, np.arange(len(signals)), encoder))
    with np.errstate(over="ignore"):
        stored_ND = vectors_ND.astype(dtype)
    usable_N = np.isfinite(stored_ND).all(axis=1) & stored_ND.any(axis=1)
    for index in np.flatnonzero(~usable_N).tolist():
        problems.setdefault(index, _fault(vectors_ND[index], dtype))
    return Encoded(encoder.fingerprint, vectors_ND, problems)


def _fill(
    vectors_ND: _Vectors, signals: Sequence[Signal], rows: npt.NDArray[np.intp], encoder: Encoder
) -> Iterator[tuple[int, str]]:
    """Encode `rows` into `vectors_ND`; where the encoder refuses a batch, halve it until the bad rows are alone."""
    if not len(rows):
        return
    try:
        encoded_ND = encoder.encode([signals[row] for row in rows])
    except ValueError as error:
        if len(rows) == 1:
            yield int(rows[0]), f"refused by the encoder: {' '.join(str(error).split())}"
            return
        for half in np.array_split(rows, 2):
            yield from _fill(vectors_ND, signals, half, encoder)
        return
    expected = (len(rows), encoder.width)
    if encoded_ND.shape != expected:
        raise TypeError(f"encoder {encoder.name!r} gave an array of shape {encoded_ND.shape}, expected {expected}")
    vectors_ND[rows] = encoded_ND


def _fault(vector_D: _Vectors, dtype: StorageDtype) -> str:
    if np.isnan(vector_D).any():
        return "holds NaN"
    if not np.isfinite(vector_D).all():
        return "is infinite"
    return "is zero" if np.abs(vector_D).max() < 1 else f"is too large for {dtype}"

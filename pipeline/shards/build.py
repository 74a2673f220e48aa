"""The rows of one shard, from source to table; no files are written here.

In: a range of source rows, and frozen encoders.  Out: a table that holds every good row, and the reason of each other.

Shape suffixes: N rows, T tokens of a row, M tokens of all rows, E width of the encoder, W width of the text encoder,
D either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config.schema import SignalKind
from pipeline.data.decoders import DecodeError, decode
from pipeline.data.sample import BadRow, Sample
from pipeline.encoders.base import Encoder, TokenEncoder
from pipeline.shards.format import RejectedRow, StorageDtype, TokenRows, shard_table
from pipeline.signal import Signal

_Vectors = npt.NDArray[np.float32]
_Rows = npt.NDArray[np.intp]


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

    def of(self, rows: Sequence[int]) -> _Vectors:
        """The vectors of some rows."""
        return self.vectors_ND[rows]


@dataclass(frozen=True, slots=True)
class EncodedTokens:
    """Tokens as they will be stored, and why some rows have none that can be used."""

    width: int
    """Length of a token."""
    tokens: list[npt.NDArray[np.floating]]
    """`[T, E]` of each row."""
    problems: dict[int, str]
    """By position."""

    def of(self, rows: Sequence[int]) -> TokenRows:
        """The tokens of some rows."""
        chosen = [self.tokens[row] for row in rows]
        # Where there is no row, the width is still to be known.
        none = np.empty((0, self.width), dtype=np.float32)
        return TokenRows(
            tokens_ME=np.concatenate(chosen) if chosen else none,
            counts_N=np.array([len(tokens_TE) for tokens_TE in chosen], dtype=np.int64),
        )


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
    signals = [Signal(kind="text", text=caption) for caption in _first_captions(decoded)]
    return encode_signals(signals, text_encoder, dtype)


def _first_captions(decoded: DecodedShard) -> list[str]:
    return [row.sample.captions[0] for row in decoded.rows]


def encode_shard(
    decoded: DecodedShard, encoder: Encoder | TokenEncoder, texts: Encoded, dtype: StorageDtype
) -> tuple[pa.Table, tuple[RejectedRow, ...]]:
    """The shard's table, and all rows that it lacks in the order of the source."""
    embedded = _embedded(decoded, encoder, texts, dtype)
    problems = {index: f"text embedding {problem}" for index, problem in texts.problems.items()}
    problems = {index: f"embedding {problem}" for index, problem in embedded.problems.items()} | problems
    good = [index for index in range(len(decoded.rows)) if index not in problems]
    rows = [decoded.rows[index] for index in good]
    table = shard_table(
        ids=[row.sample.id for row in rows],
        captions=[row.sample.captions for row in rows],
        embeddings_NE=embedded.of(good),
        text_embeddings_NW=texts.vectors_ND[good],
        splits=[row.sample.split for row in rows],
        attributes=[row.sample.attributes for row in rows],
        source_rows=[row.source_row for row in rows],
        dtype=dtype,
    )
    refused = [_rejected(decoded.rows[index], problem) for index, problem in problems.items()]
    return table, tuple(sorted([*decoded.rejected, *refused], key=lambda row: row.source_row))


def _embedded(
    decoded: DecodedShard, encoder: Encoder | TokenEncoder, texts: Encoded, dtype: StorageDtype
) -> Encoded | EncodedTokens:
    signals = [row.signal for row in decoded.rows]
    if isinstance(encoder, TokenEncoder):
        return _encode_tokens(signals, encoder, dtype)
    # Text as a modality is mostly its own caption, and its first encoder the text encoder: that work is done already.
    known = encoder.fingerprint == texts.encoder and [signal.text for signal in signals] == _first_captions(decoded)
    return texts if known else encode_signals(signals, encoder, dtype)


def _rejected(row: DecodedRow, detail: str) -> RejectedRow:
    return RejectedRow.of(row.source_row, id=row.sample.id, source=row.sample.source, detail=detail)


def encode_signals(signals: Sequence[Signal], encoder: Encoder, dtype: StorageDtype) -> Encoded:
    """A vector of each signal, or why there is none; signals that the encoder refuses do not harm the others."""
    vectors_ND = np.zeros((len(signals), encoder.width), dtype=np.float32)

    def fill(rows: _Rows) -> None:
        encoded_ND = encoder.encode([signals[row] for row in rows])
        _check_shape(encoder.name, encoded_ND.shape, (len(rows), encoder.width))
        vectors_ND[rows] = encoded_ND

    problems = dict(_refused(np.arange(len(signals)), fill))
    with np.errstate(over="ignore"):
        stored_ND = vectors_ND.astype(dtype)
    usable_N = np.isfinite(stored_ND).all(axis=1) & stored_ND.any(axis=1)
    for index in np.flatnonzero(~usable_N).tolist():
        problems.setdefault(index, _fault(vectors_ND[index], dtype))
    return Encoded(encoder.fingerprint, vectors_ND, problems)


def _encode_tokens(signals: Sequence[Signal], encoder: TokenEncoder, dtype: StorageDtype) -> EncodedTokens:
    tokens: list[npt.NDArray[np.floating]] = [np.empty((0, encoder.width), dtype=dtype)] * len(signals)
    faults: dict[int, str] = {}

    def fill(rows: _Rows) -> None:
        encoded = encoder.encode_tokens([signals[row] for row in rows])
        if len(encoded) != len(rows):
            raise TypeError(f"encoder {encoder.name!r} gave tokens of {len(encoded)} signals, expected {len(rows)}")
        for row, tokens_TE in zip(rows.tolist(), encoded, strict=True):
            _check_shape(encoder.name, tokens_TE.shape, (len(tokens_TE), encoder.width))
            with np.errstate(over="ignore"):
                tokens[row] = tokens_TE.astype(dtype)
            if not (np.isfinite(tokens[row]).all() and tokens[row].any()):
                faults[row] = _fault(tokens_TE, dtype) if len(tokens_TE) else "has no tokens"

    refused = dict(_refused(np.arange(len(signals)), fill))
    return EncodedTokens(encoder.width, tokens, faults | refused)


def _check_shape(encoder: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise TypeError(f"encoder {encoder!r} gave an array of shape {got}, expected {expected}")


def _refused(rows: _Rows, fill: Callable[[_Rows], None]) -> Iterator[tuple[int, str]]:
    """Encode `rows` by `fill`; where the encoder refuses a batch, halve it until the bad rows are alone."""
    if not len(rows):
        return
    try:
        fill(rows)
    except ValueError as error:
        if len(rows) == 1:
            yield int(rows[0]), f"refused by the encoder: {' '.join(str(error).split())}"
            return
        for half in np.array_split(rows, 2):
            yield from _refused(half, fill)


def _fault(values: _Vectors, dtype: StorageDtype) -> str:
    """What is wrong with a row's vector `[D]` or tokens `[T, D]`."""
    if np.isnan(values).any():
        return "holds NaN"
    if not np.isfinite(values).all():
        return "is infinite"
    return "is zero" if np.abs(values).max() < 1 else f"is too large for {dtype}"

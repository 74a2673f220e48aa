"""What an embedding dataset holds, in figures: one pass, shard by shard, in the memory of one shard.

In: a dataset.  Out: a `DatasetSummary`; every shard's hash was checked on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import EmbeddingDataset
from pipeline.shards.vectors import norms, vectors_of

_FIRST_NUMBERS = 4


@dataclass(frozen=True, slots=True)
class Norms:
    """Lengths of all vectors of a column; NaN where there are none."""

    smallest: float
    """The shortest."""
    mean: float
    """Their mean."""
    largest: float
    """The longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One row, for a person to look at."""

    id: str
    """Its id."""
    split: str
    """Its split."""
    captions: tuple[str, ...]
    """All its captions."""
    attributes: dict[str, str]
    """What the source carried besides."""
    embedding: tuple[float, ...]
    """The first numbers of its (first) vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """What a dataset holds."""

    name: str
    """Its folder or URI."""
    manifest: Manifest
    """Its manifest: encoders, splits, rejected rows and the rest."""
    columns: dict[str, str]
    """Arrow type of each column."""
    bytes: int
    """Size of its shards and of the table of rejected rows."""
    embedding_norms: Norms
    """Of the column `embedding`."""
    text_norms: Norms
    """Of the column `text_embedding`."""
    samples: tuple[SampleRow, ...]
    """Its first rows."""


def summarise_dataset(dataset: EmbeddingDataset, *, rows: int) -> DatasetSummary:
    """Read every shard once; `rows` is how many sample rows to keep.  `ValueError` where a shard is damaged."""
    lengths = {"embedding": _Lengths(), "text_embedding": _Lengths()}
    samples: list[SampleRow] = []
    for table in dataset.tables():
        for column, found in lengths.items():
            for vectors_VD in vectors_of(table[column]):
                found.add(norms(vectors_VD))
        samples += _samples(table.slice(0, rows - len(samples)))
    manifest = dataset.manifest
    return DatasetSummary(
        name=dataset.name,
        manifest=manifest,
        columns={field.name: str(field.type) for field in dataset.take([]).schema},
        bytes=sum(entry.bytes for entry in (*manifest.shards, manifest.rejected)),
        embedding_norms=lengths["embedding"].norms(),
        text_norms=lengths["text_embedding"].norms(),
        samples=tuple(samples),
    )


@dataclass(slots=True)
class _Lengths:
    """Running figures of the lengths seen so far."""

    count: int = 0
    smallest: float = math.inf
    largest: float = -math.inf
    sums: list[float] = field(default_factory=list)

    def add(self, norms_V: npt.NDArray[np.float64]) -> None:
        if norms_V.size:
            self.count += norms_V.size
            self.smallest = min(self.smallest, float(norms_V.min()))
            self.largest = max(self.largest, float(norms_V.max()))
            self.sums.append(float(norms_V.sum()))

    def norms(self) -> Norms:
        if not self.count:
            return Norms(math.nan, math.nan, math.nan)
        return Norms(self.smallest, math.fsum(self.sums) / self.count, self.largest)


def _samples(table: pa.Table) -> list[SampleRow]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return [
        SampleRow(
            id=row["id"],
            split=row["split"],
            captions=tuple(row["caption"]),
            attributes=dict(row["attributes"]),
            embedding=_first_numbers(row["embedding"]),
        )
        for row in rows
    ]


def _first_numbers(value: list[Any]) -> tuple[float, ...]:
    """Of a vector, or of the first of several."""
    if value and isinstance(value[0], list):
        return _first_numbers(value[0])
    return tuple(float(number) for number in value[:_FIRST_NUMBERS])

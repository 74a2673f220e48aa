"""Datasets whose bytes are those that were written, but were written wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.shards import EmbeddingDataset, Problem, verify_dataset
from pipeline.shards.format import record_of
from pipeline.shards.manifest import MANIFEST_FILE, _canonical
from pipeline.shards.vectors import usable, vectors_of
from pipeline.shards.writer import write_shard
from tests.unit.shards.conftest import write_dataset

ROW: dict[str, Any] = {"captions": ["a"], "split": "train", "attributes": {}}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_dataset(tmp_path, [[ROW] * 5, [], [ROW] * 4], "float16", 0)
    return tmp_path


def rewrite(directory: Path, index: int, change: Callable[[pa.Table], pa.Table]) -> str:
    """Write a shard again with other rows, and the manifest with its new name, size and hashes."""
    fields = json.loads((directory / MANIFEST_FILE).read_text())
    fields.pop("checksum")
    entry = fields["shards"][index]
    table = EmbeddingDataset(directory).table(index)
    record = record_of(table.schema)
    assert record is not None
    written = write_shard(directory, index, change(table), record).entry
    assert written.rows == entry["rows"]
    entry.update(name=written.name, bytes=written.bytes, sha256=written.sha256)
    (directory / MANIFEST_FILE).write_text(_canonical(fields))
    return written.name


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), table.schema.field(name), values)


def with_vector(table: pa.Table, name: str, row: int, values: np.ndarray[Any, Any]) -> pa.Table:
    (vectors,) = vectors_of(table[name])
    changed = vectors.copy()
    changed[row] = values
    return with_column(table, name, pa.FixedSizeListArray.from_arrays(pa.array(changed.reshape(-1)), len(changed[row])))


@pytest.mark.parametrize("column", ["embedding", "text_embedding"])
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_a_vector_with_one_value_that_is_not_finite(directory: Path, column: str, value: float) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        (vectors,) = vectors_of(table[column])
        return with_vector(table, column, 3, np.array([*vectors[3][:-1], value], dtype=np.float16))

    name = rewrite(directory, 2, spoil)
    wrong = Problem(name, f"holds 1 vectors of column {column!r} that are zero, infinite or NaN")
    assert verify_dataset(directory) == [wrong]


def test_a_vector_of_zeros(directory: Path) -> None:
    name = rewrite(directory, 0, lambda table: with_vector(table, "embedding", 0, np.full(7, -0.0, dtype=np.float16)))
    assert [problem.file for problem in verify_dataset(directory)] == [name]


@pytest.mark.parametrize(
    ("shard", "rows"),
    [
        (0, [0, 1, 3, 2, 4]),  # not in order
        (0, [0, 1, 1, 2, 3]),  # twice
        (2, [4, 6, 7, 8]),  # the last one of an earlier shard
        (0, [-1, 1, 2, 3, 4]),
    ],
)
def test_source_rows_ascend_within_and_between_shards(directory: Path, shard: int, rows: list[int]) -> None:
    name = rewrite(directory, shard, lambda table: with_column(table, "source_row", pa.array(rows)))
    message = "holds rows that are not in the order of their source (source_row does not ascend)"
    assert verify_dataset(directory) == [Problem(name, message)]


def test_every_problem_of_a_shard_is_told(directory: Path) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        table = with_column(table, "id", pa.array(["id 0", "id 1", "new", "new"]))
        table = with_column(table, "source_row", pa.array([9, 8, 7, 6]))
        return with_vector(table, "text_embedding", 1, np.zeros(3, dtype=np.float16))

    rewrite(directory, 2, spoil)
    assert [problem.problem.partition(" (")[0] for problem in verify_dataset(directory)] == [
        "holds 3 ids that occurred before",
        "holds rows that are not in the order of their source",
        "holds 1 vectors of column 'text_embedding' that are zero, infinite or NaN",
    ]


def test_a_missing_value(directory: Path) -> None:
    name = rewrite(directory, 0, lambda table: with_column(table, "id", pa.array(["a", None, "b", "c", "d"])))
    assert verify_dataset(directory) == [Problem(name, "lacks values of column 'id'")]


def test_text_that_is_none(directory: Path) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        ids = table["id"].chunk(0)
        offsets, data = ids.buffers()[1:]
        broken = pa.StringArray.from_buffers(len(ids), offsets, pa.py_buffer(b"\xff" * data.size))
        return with_column(table, "id", broken)

    name = rewrite(directory, 0, spoil)
    (problem,) = verify_dataset(directory)
    assert problem.file == name
    assert "Invalid UTF8" in problem.problem


def test_nothing_stays_mapped(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[EmbeddingDataset] = []
    load = EmbeddingDataset._passing_table
    monkeypatch.setattr(
        EmbeddingDataset, "_passing_table", lambda self, shard: opened.append(self) or load(self, shard)
    )
    assert verify_dataset(directory) == []
    assert len(opened) == 3
    assert all(dataset._shards == {} for dataset in opened)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_usable_vectors_are_those_that_numpy_finds(dtype: type[np.floating]) -> None:
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1.0, -1.0, np.finfo(dtype).max, np.finfo(dtype).tiny]
    special += [np.finfo(dtype).smallest_subnormal, -np.finfo(dtype).smallest_subnormal]
    vectors = np.random.default_rng(0).choice(np.array(special, dtype=dtype), size=(4000, 2))
    expected = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    assert 0 < expected.sum() < len(expected)
    assert np.array_equal(usable(vectors), expected)
    assert usable(vectors[:0]).shape == (0,)


def test_vectors_of_tokens_are_found_below_their_rows() -> None:
    numbers = np.arange(24, dtype=np.float16)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 4)
    column = pa.chunked_array([pa.ListArray.from_arrays(pa.array([0, 2, 2, 6]), tokens)])
    (vectors,) = vectors_of(column)
    assert np.array_equal(vectors, numbers.reshape(6, 4))
    with pytest.raises(ValueError, match="a column of type string holds no vectors"):
        list(vectors_of(pa.chunked_array([["a"]])))

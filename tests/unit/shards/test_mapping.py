"""Mapped shards: tables without a copy, and hints for bytes that come next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.shards import EmbeddingDataset
from pipeline.shards.mapping import MappedShard
from tests.unit.shards.conftest import write_dataset


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    row = {"captions": ["a"], "split": "train", "attributes": {}}
    write_dataset(tmp_path / "d", [[row] * size for size in (5, 0, 3)], "float16", 1)
    return tmp_path / "d"


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, ...], int]]:
    """Every hint: address, starts and size."""
    hints: list[tuple[int, tuple[int, ...], int]] = []
    original = MappedShard.read_ahead

    def noted(self: MappedShard, address: int, starts: list[int], size: int) -> None:
        hints.append((address, tuple(starts), size))
        original(self, address, starts, size)

    monkeypatch.setattr(MappedShard, "read_ahead", noted)
    return hints


def test_cold_rows_are_asked_for_together_and_warm_ones_not(
    directory: Path, advised: list[tuple[int, tuple[int, ...], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EmbeddingDataset(directory).embeddings(range(8), normalize=False)
    advised.clear()
    dataset = EmbeddingDataset(directory)
    rows = np.array([7, 0, 1])
    monkeypatch.setattr("pipeline.shards.rows._WARM_S", 1e9)
    first = dataset.embeddings(rows, normalize=False)
    assert sum(len(starts) for _, starts, _ in advised) == 3
    assert {size for _, _, size in advised} == {dataset.width * np.dtype(dataset.dtype).itemsize}
    hints = len(advised)
    assert dataset.embeddings(rows, normalize=False).equal(first)
    assert len(advised) == hints, "the second read was warm"
    monkeypatch.setattr("pipeline.shards.rows._WARM_S", -1e9)
    for _ in range(2):
        assert dataset.embeddings(rows, normalize=False).equal(first)
    assert len(advised) > hints, "a slow read turns the hints on again"
    assert first.equal(whole[rows])


def test_hints_at_the_very_ends_of_a_file_are_accepted(directory: Path) -> None:
    path = min(directory.glob("shard-*.arrow"))
    shard = MappedShard(path)
    shard.read_ahead(shard._address, [0, path.stat().st_size - 1], 1)
    assert shard.table.num_rows > 0

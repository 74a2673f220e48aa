"""The figures of a dataset are those of its rows, from one pass that keeps no shard."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.shards import EmbeddingDataset
from pipeline.shards.format import StorageDtype
from pipeline.shards.summary import SampleRow, summarise_dataset
from pipeline.shards.vectors import norms
from tests.tiny_project import note_rows
from tests.unit.shards.conftest import extract_rows, write_dataset

ROW = {"captions": ["a", "b"], "split": "train", "attributes": {"side": "left"}}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_norms_are_those_of_all_rows(tmp_path: Path, dtype: StorageDtype) -> None:
    write_dataset(tmp_path, [[ROW] * 5, [], [ROW] * 4], dtype, 0)
    dataset = EmbeddingDataset(tmp_path)
    summary = summarise_dataset(dataset, rows=0)
    assert dataset._shards == {}
    for found, read in ((summary.embedding_norms, dataset.embeddings), (summary.text_norms, dataset.text_embeddings)):
        expected = np.linalg.norm(read(range(9), normalize=False).numpy().astype(np.float64), axis=1)
        assert (found.smallest, found.mean, found.largest) == pytest.approx(
            (expected.min(), expected.mean(), expected.max()), rel=1e-12
        )
    assert summary.samples == ()


def test_norms_of_many_and_of_large_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
    assert np.allclose(norms(vectors), np.linalg.norm(vectors, axis=1))
    assert norms(np.full((1, 4), 3e38, dtype=np.float32))[0] == pytest.approx(6e38)
    assert norms(np.full((1, 4), 6e4, dtype=np.float16))[0] == pytest.approx(1.2e5, rel=1e-3)


def test_what_the_manifest_and_the_schema_say(tmp_path: Path, hash_encoders: None) -> None:
    rows = note_rows(20)
    rows[4]["caption"] = ""
    extract_rows(tmp_path, rows)
    directory = tmp_path / "out" / "notes" / "text-b"
    dataset = EmbeddingDataset(directory)
    summary = summarise_dataset(dataset, rows=9)
    assert summary.manifest == dataset.manifest
    assert summary.manifest.rejected_by_reason == {"empty caption": 1}
    files = [path for path in directory.iterdir() if path.suffix != ".json"]
    assert summary.bytes == sum(path.stat().st_size for path in files)
    assert summary.columns["embedding"] == "fixed_size_list<item: halffloat>[9]"
    assert list(summary.columns) == dataset.take([]).column_names
    numbers = dataset.embeddings(range(9), normalize=False)[:, :4].tolist()
    assert summary.samples == tuple(
        SampleRow(id=id, split=split, captions=captions, attributes=attributes, embedding=tuple(vector))
        for id, split, captions, attributes, vector in zip(
            dataset.ids(range(9)),
            dataset.take(range(9))["split"].to_pylist(),
            dataset.captions(range(9)),
            dataset.attributes(range(9)),
            numbers,
            strict=True,
        )
    )


def test_a_dataset_without_rows(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[]], "float16", 0)
    summary = summarise_dataset(EmbeddingDataset(tmp_path), rows=5)
    assert summary.samples == ()
    assert math.isnan(summary.embedding_norms.mean)
    assert len(summary.columns) == 7


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[ROW] * 3], "float16", 0)
    shard = next(tmp_path.glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no row of it is served"):
        summarise_dataset(EmbeddingDataset(tmp_path), rows=1)

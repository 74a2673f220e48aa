"""Rows from one dataset, from several as one, and from elsewhere: always those that were written."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards import ConcatDataset, EmbeddingDataset, rows
from pipeline.shards.format import StorageDtype
from tests.unit.shards.conftest import write_dataset

ROW = {"captions": ["a"], "split": "train", "attributes": {"side": "left"}}
SIZES = (5, 0, 1, 5, 2, 3)


def make(
    folder: Path, sizes: tuple[int, ...] = SIZES, *, dtype: StorageDtype = "float16", seed: int = 0
) -> EmbeddingDataset:
    folder.mkdir()
    write_dataset(folder, [[ROW] * size for size in sizes], dtype, seed)
    return EmbeddingDataset(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingDataset:
    return make(tmp_path_factory.mktemp("rows") / "d")


@given(st.lists(st.integers(0, sum(SIZES) - 1), max_size=40))
def test_both_ways_of_gathering_give_the_rows_asked_for(dataset: EmbeddingDataset, chosen: list[int]) -> None:
    expected = np.concatenate([dataset.vectors(shard).numpy() for shard in range(len(SIZES))])[chosen]
    indices = np.array(chosen, dtype=np.int64)
    for gathered in (
        dataset._dense("embedding", indices),
        *([dataset._scattered("embedding", indices)] if chosen else []),
    ):
        assert gathered.dtype == np.float16
        assert np.array_equal(gathered, expected)


@pytest.mark.parametrize("dense", [0, 10**6])
def test_few_and_many_rows_give_the_same_tensors(
    dataset: EmbeddingDataset, monkeypatch: pytest.MonkeyPatch, dense: int
) -> None:
    indices = np.random.default_rng(0).integers(0, len(dataset), size=200)
    raw = torch.from_numpy(np.concatenate([dataset.vectors(s, "text_embedding").numpy() for s in range(len(SIZES))]))
    monkeypatch.setattr(rows, "_DENSE", dense)
    expected = raw[indices].float()
    assert torch.equal(dataset.text_embeddings(indices, normalize=False), expected)
    assert torch.equal(dataset.text_embeddings(indices), torch.nn.functional.normalize(expected, dim=1))
    assert dataset.text_embeddings([]).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_served_is_the_callers_own(tmp_path: Path, dtype: StorageDtype) -> None:
    dataset = make(tmp_path / "d", dtype=dtype)
    before = dataset.embeddings(range(16), normalize=False)
    dataset.embeddings(range(16), normalize=False).zero_()
    dataset.embeddings([3]).zero_()
    assert torch.equal(dataset.embeddings(range(16), normalize=False), before)


def test_a_shard_becomes_a_tensor_without_a_copy(dataset: EmbeddingDataset) -> None:
    before = pa.total_allocated_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = dataset.vectors(3)
    assert pa.total_allocated_bytes() == before
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float16, (5, 7))
    column = dataset.table(3, ["embedding"])["embedding"].chunk(0)
    assert tensor.data_ptr() == column.flatten().buffers()[1].address


def test_rows_as_a_table(dataset: EmbeddingDataset) -> None:
    table = dataset.take([9, 0, 9, 15], ["source_row", "id"])
    assert table.to_pydict() == {"source_row": [9, 0, 9, 15], "id": ["id 9", "id 0", "id 9", "id 15"]}
    whole = dataset.take(np.arange(len(dataset))[::-1])
    assert whole["source_row"].to_pylist() == list(range(16))[::-1]
    assert dataset.take([]).schema == whole.schema
    assert dataset.take([], ["id"]).column_names == ["id"]


def test_a_pass_over_all_shards_keeps_none(tmp_path: Path) -> None:
    dataset = make(tmp_path / "d")
    assert [row for table in dataset.tables(["id"]) for row in table["id"].to_pylist()] == dataset.ids(range(16))
    fresh = EmbeddingDataset(tmp_path / "d")
    assert sum(table.num_rows for table in fresh.tables()) == 16
    assert fresh._shards == {}


@pytest.mark.parametrize("read", [lambda d: d.take([0], ["vector"]), lambda d: next(d.tables(["vector"]))])
def test_an_unknown_column_names_those_there_are(dataset: EmbeddingDataset, read: object) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match="no column 'vector': it has id, caption, embedding, text_embedding, split"):
        read(dataset)


def test_several_datasets_as_one(tmp_path: Path) -> None:
    parts = [make(tmp_path / "a", (3, 2), seed=1), make(tmp_path / "b", (4,), seed=2), make(tmp_path / "c", (0,))]
    joined = ConcatDataset(parts)
    assert (len(joined), joined.shard_count, joined.splits) == (9, 4, {"train": 9})
    order = [8, 0, 4, 5, 5]
    expected = torch.cat([part.embeddings(range(len(part))) for part in parts])
    assert torch.equal(joined.embeddings(order), expected[order])
    assert joined.ids(order) == ["id 3", "id 0", "id 4", "id 0", "id 0"]
    assert joined.take(order, ["id"])["id"].to_pylist() == joined.ids(order)
    assert joined.rows_of_split("train").tolist() == list(range(9))
    assert [table.num_rows for table in joined.tables()] == [3, 2, 4, 0]
    with pytest.raises(ValueError, match=r"rows must lie in 0\.\.8"):
        joined.embeddings([9])
    with pytest.raises(ValueError, match=r"a \+ .*b \+ .*c has no split 'dev': it has train"):
        joined.rows_of_split("dev")


def test_a_damaged_part_is_refused_and_the_others_served(tmp_path: Path) -> None:
    good, bad = make(tmp_path / "a", (3,)), make(tmp_path / "b", (3,))
    path = next((tmp_path / "b").glob("shard-*.arrow"))
    path.write_bytes(path.read_bytes()[:-1])
    joined = ConcatDataset([good, bad])
    assert joined.ids([2]) == ["id 2"]
    with pytest.raises(ValueError, match="no row of it is served"):
        joined.embeddings([2, 3])


def test_only_datasets_of_one_type_are_joined(tmp_path: Path) -> None:
    parts = [make(tmp_path / "a", dtype="float16"), make(tmp_path / "b", dtype="float32")]
    with pytest.raises(
        ValueError, match=r"b cannot be joined to .*a: its dtype is float32, not float16; join datasets"
    ):
        ConcatDataset(parts)
    (tmp_path / "c").mkdir()
    write_dataset(tmp_path / "c", [[ROW]], "float16", 0, width=8)
    with pytest.raises(ValueError, match=r"its width is 8, not 7"):
        ConcatDataset([parts[0], EmbeddingDataset(tmp_path / "c")])
    with pytest.raises(ValueError, match="at least one"):
        ConcatDataset([])

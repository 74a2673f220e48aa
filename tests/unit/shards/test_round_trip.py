"""What is written is what is read, whatever the rows are."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards import EmbeddingDataset, verify_dataset
from pipeline.shards.format import RejectedRow, ShardRecord, StorageDtype, record_of
from pipeline.shards.writer import finished_shards, write_shard
from tests.unit.shards.conftest import write_dataset

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ROW = st.fixed_dictionaries(
    {
        "captions": st.lists(TEXT, min_size=1, max_size=3),
        "split": st.sampled_from(["train", "validation", "test", "ünicode"]),
        "attributes": st.dictionaries(TEXT, TEXT, max_size=3),
    }
)
SHARDS = st.lists(st.lists(ROW, max_size=5), min_size=1, max_size=4)


@given(SHARDS, st.sampled_from(["float16", "float32"]), st.integers(0, 2**32), st.data())
def test_rows_come_back_as_written(
    shards: list[list[dict[str, Any]]], dtype: StorageDtype, seed: int, data: st.DataObject
) -> None:
    rows = [row for shard in shards for row in shard]
    rng = np.random.default_rng(seed)
    vectors = [(rng.normal(size=(len(shard), 7)), rng.normal(size=(len(shard), 3))) for shard in shards]
    embeddings = np.concatenate([pair[0] for pair in vectors]).astype(dtype)
    texts = np.concatenate([pair[1] for pair in vectors]).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), shards, dtype, seed)
        assert verify_dataset(Path(folder)) == []
        dataset = EmbeddingDataset(Path(folder))
        assert len(dataset) == len(rows)
        chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12)) if rows else []
        picked = np.array(chosen, dtype=np.int64)

        assert torch.equal(
            dataset.embeddings(chosen, normalize=False), torch.from_numpy(embeddings[picked].astype(np.float32))
        )
        unit = texts[picked].astype(np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        torch.testing.assert_close(dataset.text_embeddings(chosen), torch.from_numpy(unit))
        assert dataset.captions(chosen) == [tuple(rows[index]["captions"]) for index in chosen]
        assert dataset.attributes(chosen) == [rows[index]["attributes"] for index in chosen]
        for split in dataset.manifest.splits:
            expected = [index for index, row in enumerate(rows) if row["split"] == split]
            assert dataset.rows_of_split(split).tolist() == expected


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    row = {"captions": ["a"], "split": "train", "attributes": {}}
    write_dataset(tmp_path, [[row] * 5, [row] * 5, [row] * 2], "float16", 0)
    return tmp_path


def test_same_rows_same_bytes(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    row = {"captions": ["a"], "split": "train", "attributes": {}}
    write_dataset(other, [[row] * 5, [row] * 5, [row] * 2], "float16", 0)
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == {
        file.name: file.read_bytes() for file in other.iterdir()
    }


def test_a_column_is_read_without_a_copy(directory: Path) -> None:
    dataset = EmbeddingDataset(directory)
    before = pa.total_allocated_bytes()
    column = dataset.table(0, ["embedding"])["embedding"].chunk(0)
    matrix = column.flatten().to_numpy(zero_copy_only=True).reshape(5, 7)
    assert pa.total_allocated_bytes() == before
    assert np.array_equal(matrix.astype(np.float32), dataset.embeddings(range(5), normalize=False).numpy())


def test_shards_hold_plain_types_in_one_batch(directory: Path) -> None:
    path = sorted(directory.glob("shard-*.arrow"))[0]
    reader = pa.ipc.open_file(path.read_bytes())
    assert reader.num_record_batches == 1
    assert not any(isinstance(field.type, pa.ExtensionType) for field in reader.schema)
    assert str(reader.schema.field("embedding").type) == "fixed_size_list<item: halffloat>[7]"


def test_a_copy_in_another_process_opens_its_own_files(directory: Path) -> None:
    dataset = EmbeddingDataset(directory)
    assert torch.equal(dataset.embeddings([11, 0, 6]), pickle.loads(pickle.dumps(dataset)).embeddings([11, 0, 6]))  # noqa: S301


@pytest.mark.parametrize(
    ("rows", "message"), [([-1], "must lie in 0..11"), ([12], "0..11, got 12..12"), ([[0]], "flat list")]
)
def test_rows_out_of_range_are_refused(directory: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingDataset(directory).embeddings(rows)


def test_indices_may_be_tensors_and_repeat(directory: Path) -> None:
    dataset = EmbeddingDataset(directory)
    assert dataset.ids(torch.tensor([7, 7, 0])) == ["id 7", "id 7", "id 0"]
    assert dataset.embeddings(np.array([], dtype=np.int64)).shape == (0, 7)
    assert dataset.captions([]) == []


def test_an_unknown_split_names_those_there_are(directory: Path) -> None:
    with pytest.raises(ValueError, match="no split 'dev': it has train"):
        EmbeddingDataset(directory).rows_of_split("dev")


def test_a_finished_shard_is_known_by_its_record(directory: Path) -> None:
    wanted = {0: ShardRecord(content_key="k", start=0, stop=5), 1: ShardRecord(content_key="other", start=5, stop=10)}
    found = finished_shards(directory, wanted)
    assert list(found) == [0]
    assert found[0].entry.rows == 5
    assert found[0].splits == {"train": 5}
    assert (found[0].width, found[0].text_width) == (7, 3)


def test_a_shard_that_is_there_is_not_written_again(directory: Path) -> None:
    path = sorted(directory.glob("shard-*.arrow"))[1]
    content, before = path.read_bytes(), path.stat()
    table = EmbeddingDataset(directory).table(1)
    record = record_of(table.schema)
    assert record is not None
    assert write_shard(directory, 1, table, record).entry.name == path.name
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.write_bytes(content[:-1])
    write_shard(directory, 1, table, record)
    assert path.read_bytes() == content


def test_the_record_carries_the_rejected_rows(directory: Path) -> None:
    rejected = (RejectedRow.of(3, id="x", source="t.csv:3", detail="image cannot be decoded: bad 'x' at 0x7f00aa11"),)
    table = EmbeddingDataset(directory).table(2)
    record = ShardRecord(content_key="k", start=0, stop=3, rejected=rejected)
    shard = write_shard(directory, 9, table, record)
    assert record_of(pa.ipc.open_file((directory / shard.entry.name).read_bytes()).schema) == record
    assert rejected[0].reason == "image cannot be decoded"
    assert rejected[0].detail == "image cannot be decoded: bad 'x' at 0x"


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        ("file 'a/b.png' cannot be read: No such file", "file … cannot be read"),
        ("has 3 cells, the header has 4", "has N cells, the header has N"),
        ("text is not UTF-8", "text is not UTF-8"),
    ],
)
def test_reasons_leave_out_the_values_of_a_row(detail: str, reason: str) -> None:
    row = RejectedRow.of(0, id="x", source="s", detail=detail)
    assert (row.reason, row.detail) == (reason, detail)

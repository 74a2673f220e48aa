"""A Parquet file holds the dataset's rows, row group by row group, or does not appear."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.shards import EmbeddingDataset, export
from pipeline.shards.export import MANIFEST_KEY, export_parquet
from tests.unit.shards.conftest import write_dataset

ROW = {"captions": ["a", "ü"], "split": "train", "attributes": {"side": "left"}}
SIZES = (5, 0, 4)


@pytest.fixture
def dataset(tmp_path: Path) -> EmbeddingDataset:
    (tmp_path / "d").mkdir()
    write_dataset(tmp_path / "d", [[ROW] * size for size in SIZES], "float16", 0)
    return EmbeddingDataset(tmp_path / "d")


def test_a_row_group_is_a_shard(dataset: EmbeddingDataset, tmp_path: Path) -> None:
    path = tmp_path / "new" / "d.parquet"
    assert export_parquet(dataset, path) == path.stat().st_size
    assert [file.name for file in path.parent.iterdir()] == ["d.parquet"]
    assert path.stat().st_mode & 0o777 == 0o644
    file = pq.ParquetFile(path)
    assert file.num_row_groups == len(SIZES)
    for shard in range(len(SIZES)):
        assert file.read_row_group(shard).equals(dataset.table(shard))
    whole = pq.read_table(path)
    assert whole.equals(pa.concat_tables(dataset.tables()))
    assert whole.schema.equals(dataset.table(0).schema)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    manifest = json.loads(whole.schema.metadata[MANIFEST_KEY])
    assert (manifest["rows"], manifest["encoder"]["name"]) == (9, "e")
    assert dataset._shards.keys() <= {0, 1, 2}


def test_no_shard_stays_mapped(dataset: EmbeddingDataset, tmp_path: Path) -> None:
    export_parquet(dataset, tmp_path / "d.parquet")
    assert dataset._shards == {}


def test_a_large_shard_is_one_row_group_too(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write_dataset(tmp_path / "d", [[ROW] * 3000, [ROW] * 2], "float32", 0, width=1)
    dataset = EmbeddingDataset(tmp_path / "d")
    export_parquet(dataset, tmp_path / "d.parquet")
    metadata = pq.ParquetFile(tmp_path / "d.parquet").metadata
    assert [metadata.row_group(group).num_rows for group in range(2)] == [3000, 2]


@pytest.mark.parametrize("shard", [0, 1])
def test_a_damaged_dataset_leaves_the_earlier_file(dataset: EmbeddingDataset, tmp_path: Path, shard: int) -> None:
    path = tmp_path / "out" / "d.parquet"
    export_parquet(dataset, path)
    before = path.read_bytes()
    file = sorted((tmp_path / "d").glob("shard-*"))[shard]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no row of it is served"):
        export_parquet(EmbeddingDataset(tmp_path / "d"), path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {"d.parquet": before}


def test_what_does_not_read_back_is_not_written(
    dataset: EmbeddingDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export._write

    def write_less(dataset: EmbeddingDataset, path: Path) -> None:
        write(dataset, path)
        table = pq.read_table(path)
        pq.write_table(table, path, row_group_size=2)

    monkeypatch.setattr(export, "_write", write_less)
    with pytest.raises(ValueError, match="is not written: it would hold 5 row groups instead of 3"):
        export_parquet(dataset, tmp_path / "out" / "d.parquet")

    def write_other(dataset: EmbeddingDataset, path: Path) -> None:
        with pq.ParquetWriter(path, dataset.take([]).schema) as writer:
            for table in dataset.tables():
                ids = pa.array([f"{id}!" for id in table["id"].to_pylist()], type=pa.string())
                writer.write_table(table.replace_schema_metadata(None).set_column(0, "id", ids))

    monkeypatch.setattr(export, "_write", write_other)
    with pytest.raises(ValueError, match="is not written: shard 0 did not read back as it was"):
        export_parquet(dataset, tmp_path / "out" / "d.parquet")
    assert list((tmp_path / "out").iterdir()) == []

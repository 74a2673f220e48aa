"""Files, folders and tables to be captioned."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.inputs import read_inputs


def test_a_file_is_itself_and_a_folder_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "below/c.png", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [one.signal for one in read_inputs(tmp_path, "image", column="file")]
    assert found == [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "below" / "c.png"]
    (one,) = read_inputs(tmp_path / "a.png", "image", column="file")
    assert (one.id, one.signal) == (str(tmp_path / "a.png"), tmp_path / "a.png")


def test_a_table_names_files_ids_and_adapters(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("id,scan,which\nx,files/1.png,retina\n,files/2.png,radar\nz,,radar\n")
    first, second, third = read_inputs(tmp_path / "new.csv", "image", column="scan", adapter_column="which")
    assert (first.id, first.signal, first.adapter) == ("x", tmp_path / "files" / "1.png", "retina")
    assert (second.id, second.adapter) == ("new.csv:1", "radar")
    assert (third.signal, third.problem) == (None, "column 'scan' is empty")


def test_cells_hold_bytes_texts_or_vectors(tmp_path: Path) -> None:
    pq.write_table(pa.table({"file": [b"abc", None]}), tmp_path / "bytes.parquet")
    assert [one.signal for one in read_inputs(tmp_path / "bytes.parquet", "image", column="file")] == [b"abc", None]
    lines = [{"smiles": "CCO", "embedding": [1.0, 2.0]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (molecule,) = read_inputs(tmp_path / "rows.jsonl", "molecule", column="smiles")
    (vector,) = read_inputs(tmp_path / "rows.jsonl", "vector", column="embedding")
    assert (molecule.signal, vector.signal) == ("CCO", [1.0, 2.0])


def test_a_csv_of_a_series_is_a_signal_not_a_table(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("x,y\n0,1\n1,2\n")
    (tmp_path / "many.csv").write_text("file\none.csv\n")
    for name in ("one.csv", "many.csv"):
        (found,) = read_inputs(tmp_path / name, "series", column="file")
        assert found.signal == tmp_path / "one.csv"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,file\na,1.png\n")
    for path, options, message in [
        ("gone", {"column": "file"}, "gone: no such file or folder"),
        (".", {"column": "file"}, "no file in that folder"),
        ("table.csv", {"column": "scan"}, "no column 'scan'; it has file, id: name the column with --field"),
        ("table.csv", {"column": "file", "id_column": "key"}, "no column 'key'.*with --id-field"),
        ("table.csv", {"column": "file", "adapter_column": "which"}, "no column 'which'.*with --adapter-field"),
    ]:
        folder = tmp_path / "empty" if path == "." else tmp_path / path
        if path == ".":
            folder.mkdir()
        with pytest.raises(ValueError, match=message):
            list(read_inputs(folder, "image", **options))

from __future__ import annotations

import csv
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.schema import SourceConfig
from pipeline.data.sample import Sample
from pipeline.data.sources import BadRow, Source, open_source

ROWS = [
    {"id": f"r{i}", "smiles": "C" * (i + 1), "caption": f"chain of {i + 1}", "split": "test" if i == 2 else "train"}
    for i in range(7)
]


def _inline(kind: Any, path: str, **changes: Any) -> SourceConfig:
    return SourceConfig(kind=kind, path=path, payload_field="smiles", payload="inline", **changes)


def _write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path.name


def _all(source: Source) -> list[Sample | BadRow]:
    return list(source.read(0, len(source)))


def _reasons(source: Source) -> list[str | None]:
    return [row.reason if isinstance(row, BadRow) else None for row in _all(source)]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_any_row_range_reads_the_same_rows(tmp_path: Path, kind: str) -> None:
    source = open_source(_inline(kind, _write(tmp_path, kind, ROWS), attribute_fields=("smiles",)), tmp_path)
    whole = _all(source)
    assert [(row.id, row.payload, row.split) for row in whole if isinstance(row, Sample)] == [
        (row["id"], row["smiles"], row["split"]) for row in ROWS
    ]
    assert isinstance(whole[0], Sample)
    assert whole[0].captions == ("chain of 1",)
    assert whole[0].attributes == {"smiles": "C"}
    for start in range(len(whole) + 1):
        for stop in range(start, len(whole) + 1):
            assert list(source.read(start, stop)) == whole[start:stop]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_source_reads_the_same_after_pickling(tmp_path: Path, kind: str) -> None:
    source = open_source(_inline(kind, _write(tmp_path, kind, ROWS)), tmp_path)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - how Ray ships a source to its workers
    assert _all(copy) == _all(source)
    assert copy.fingerprint() == source.fingerprint()


CELLS = st.text(st.sampled_from('ab", \n\r;é\u2028\x0b\U0001f600'), min_size=1).filter(str.strip)


# Parquet cells go through Arrow unchanged; the line formats have to find the records by themselves.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["jsonl", "csv"]),
    cells=st.lists(
        st.text(st.sampled_from('ab", \n\r;é\u2028\x0b\U0001f600'), min_size=1).filter(str.strip),
        min_size=1,
        max_size=6,
    ),
)
def test_text_cells_survive(tmp_path: Path, kind: str, cells: list[str]) -> None:
    rows = [{"id": str(i), "smiles": cell, "caption": "x"} for i, cell in enumerate(cells)]
    source = open_source(_inline(kind, _write(tmp_path, kind, rows)), tmp_path)
    assert [row.payload for row in _all(source) if isinstance(row, Sample)] == cells


def test_caption_lists_skip_blanks(tmp_path: Path) -> None:
    rows = [{"id": "a", "smiles": "C", "caption": [" one ", "", "two"]}, {"id": "b", "smiles": "C", "caption": [" "]}]
    source = open_source(_inline("jsonl", _write(tmp_path, "jsonl", rows)), tmp_path)
    first, second = _all(source)
    assert isinstance(first, Sample)
    assert first.captions == ("one", "two")
    assert first.split == "train"
    assert second == BadRow(id="b", source=f"{tmp_path}/t.jsonl:1", reason="empty caption")


def test_broken_csv_rows_keep_their_place(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(
        b"\xef\xbb\xbfid,smiles,caption\r\na,C,fine\r\n\r\nb,C,  \r\nc,C,\xff\xfe\r\nd,C\r\n,C,x\r\ne,,x\r\nf,C,last"
    )
    source = open_source(_inline("csv", "t.csv"), tmp_path)
    assert _reasons(source) == [
        None,
        "empty caption",
        "not UTF-8",
        "has 2 cells, the header has 3",
        "field 'id' is empty",
        "field 'smiles' holds no text",
        None,
    ]
    assert [row.id for row in _all(source)] == ["a", "b", "row-2", "d", "row-4", "e", "f"]


def test_broken_jsonl_rows_keep_their_place(tmp_path: Path) -> None:
    good = b'{"id": 1, "smiles": "C", "caption": "x"}\n'
    (tmp_path / "t.jsonl").write_bytes(
        good
        + b'{"id": 2, "smiles"\n'
        + b"[1]\n"
        + b'{"id": 3, "caption": "x"}\n'
        + b'{"id": 4, "caption": "\xff"}\n'
        + good
    )
    reasons = _reasons(open_source(_inline("jsonl", "t.jsonl"), tmp_path))
    assert reasons[0] is None
    assert reasons[1] is not None
    assert reasons[1].startswith("not JSON: ")
    assert reasons[2:] == ["not a JSON object", "has no field 'smiles'", "not UTF-8", None]


def test_parquet_cell_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe"], pa.binary())
    caption = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"id": ["a", "b"], "smiles": ["C", "C"], "caption": caption}), tmp_path / "t.parquet")
    source = open_source(_inline("parquet", "t.parquet"), tmp_path)
    assert _reasons(source) == [None, "column 'caption' is not UTF-8"]
    assert [row.id for row in _all(source)] == ["a", "b"]


def test_files_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.bin").write_bytes(b"payload")
    (tmp_path / "secret").write_bytes(b"outside")
    names = ["a.bin", "./x/../a.bin", "none.bin", "../secret", str(tmp_path / "secret"), ""]
    rows = [{"id": str(i), "file": name, "caption": "x"} for i, name in enumerate(names)]
    _write(tmp_path / "data", "jsonl", rows)
    source = open_source(SourceConfig(kind="jsonl", path="data/t.jsonl"), tmp_path)
    assert _reasons(source) == [
        None,
        None,
        "file 'none.bin' cannot be read: No such file or directory",
        "path '../secret' leaves the table's folder",
        f"path '{tmp_path}/secret' leaves the table's folder",
        "field 'file' holds no path",
    ]
    first = next(source.read(0, 1))
    assert isinstance(first, Sample)
    assert first.payload == b"payload"


def test_parquet_bytes_plain_and_as_hugging_face_stores_them(tmp_path: Path) -> None:
    stored: dict[str, list[Any]] = {
        "plain": [b"x", b""],
        "struct": [{"bytes": b"x", "path": None}, {"bytes": None, "path": "y"}],
    }
    for name, cells in stored.items():
        rows = [{"id": str(i), "image": cell, "caption": "x"} for i, cell in enumerate(cells)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        config = SourceConfig(kind="parquet", path=f"{name}.parquet", payload_field="image", payload="bytes")
        first, second = _all(open_source(config, tmp_path))
        assert isinstance(first, Sample)
        assert first.payload == b"x"
        assert isinstance(second, BadRow)
        assert second.reason == "field 'image' holds no bytes"


def test_fingerprint_follows_table_fields_and_files(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"1")
    _write(tmp_path, "jsonl", [{"id": "a", "file": "a.bin", "caption": "x", "other": "y"}])
    config = SourceConfig(kind="jsonl", path="t.jsonl")
    seen = {open_source(config, tmp_path).fingerprint()}
    assert {open_source(config, tmp_path).fingerprint()} == seen
    seen.add(open_source(SourceConfig(kind="jsonl", path="t.jsonl", caption_field="other"), tmp_path).fingerprint())
    os.utime(tmp_path / "a.bin", ns=(1, 1))
    seen.add(open_source(config, tmp_path).fingerprint())
    (tmp_path / "a.bin").unlink()
    seen.add(open_source(config, tmp_path).fingerprint())
    _write(tmp_path, "jsonl", [{"id": "a", "file": "a.bin", "caption": "z", "other": "y"}])
    seen.add(open_source(config, tmp_path).fingerprint())
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "none.jsonl"}, r"source\.path: table .*none\.jsonl does not exist"),
        ({"caption_field": "text"}, r"has no column 'text'; it has \['caption', 'id', 'smiles', 'split'\]"),
        ({"attribute_fields": ("hue",)}, "has no column 'hue'"),
        ({"split_field": "fold"}, "has no column 'fold'"),
        ({"payload": "bytes"}, "'bytes' needs kind 'parquet', got kind 'jsonl'"),
        ({"kind": "parquet"}, r"t\.jsonl is not a readable Parquet file"),
    ],
)
def test_wrong_configuration_fails_at_opening(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    fields = {"kind": "jsonl", "path": _write(tmp_path, "jsonl", ROWS), "payload_field": "smiles", "payload": "inline"}
    with pytest.raises(ValueError, match=message):
        open_source(SourceConfig(**(fields | changes)), tmp_path)


@pytest.mark.parametrize(("kind", "content"), [("jsonl", ""), ("csv", "id,smiles,caption\n"), ("csv", "")])
def test_empty_tables_fail_at_opening(tmp_path: Path, kind: str, content: str) -> None:
    (tmp_path / "t").write_text(content)
    with pytest.raises(ValueError, match="has no rows|is empty"):
        open_source(_inline(kind, "t"), tmp_path)


def test_row_range_outside_of_the_table(tmp_path: Path) -> None:
    source = open_source(_inline("jsonl", _write(tmp_path, "jsonl", ROWS)), tmp_path)
    with pytest.raises(ValueError, match=r"row range \[5, 8\) is outside of table .* with 7 rows"):
        list(source.read(5, 8))


def test_the_fingerprints_of_tables_stay_what_they_were(tmp_path: Path) -> None:
    """Shards that were made before other kinds of sources came are still known."""
    (tmp_path / "t.jsonl").write_bytes(b'{"id": "a", "smiles": "C", "caption": "x"}\n')
    (tmp_path / "a.bin").write_bytes(b"payload")
    os.utime(tmp_path / "a.bin", ns=(10**18, 10**18))
    (tmp_path / "t.csv").write_bytes(b"id,file,caption\na,a.bin,x\nb,none.bin,x\n")
    assert (
        open_source(_inline("jsonl", "t.jsonl"), tmp_path).fingerprint()
        == "c306fb1fbc802d1fac2ef32650ff3c21a76b592c94b09294e8658b7bf6576697"
    )
    assert (
        open_source(SourceConfig(kind="csv", path="t.csv"), tmp_path).fingerprint()
        == "962f23db9b63d3411c35563d11fd3f7a5a55c831c2b93fe2a6ac72c4b3c134ea"
    )

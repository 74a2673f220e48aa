"""Hugging Face datasets: saved ones in every shape, and what the hub serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.schema import SourceConfig
from pipeline.data.sample import Sample
from pipeline.data.sources import BadRow, Source, open_source
from tests.source_kinds import hugging_face_table, pictures, save_split, write_hf_dataset

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = pa.table({"caption": ["one", "two", "three"], "text": ["a", "b", "c"]})


def config(path: str, **changes: Any) -> SourceConfig:
    fields = {"kind": "hf_dataset", "path": path, "payload": "inline", "payload_field": "text", **changes}
    return SourceConfig(**fields)


def rows(source: Source) -> list[tuple[str, str]]:
    return [(row.id, row.split) for row in source.read(0, len(source)) if isinstance(row, Sample)]


def test_a_single_split_without_ids(tmp_path: Path) -> None:
    save_split(tmp_path / "s", TEXTS, files=2)
    source = open_source(config("s"), tmp_path)
    assert rows(source) == [("train/0", "train"), ("train/1", "train"), ("train/2", "train")]
    assert list(source.ids()) == ["train/0", "train/1", "train/2"]
    assert [row.id for row in source.read(2, 3)] == ["train/2"]
    state = json.loads((tmp_path / "s" / "state.json").read_text())
    (tmp_path / "s" / "state.json").write_text(json.dumps(state | {"_split": "test"}))
    assert rows(open_source(config("s"), tmp_path))[0] == ("test/0", "test")


def test_a_column_with_the_split_goes_before_the_folder(tmp_path: Path) -> None:
    save_split(tmp_path / "s", TEXTS.append_column("split", pa.array(["x", "y", None])))
    assert [split for _, split in rows(open_source(config("s"), tmp_path))] == ["x", "y", "train"]


def test_one_bad_cell_costs_one_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe", b"good"], pa.binary())
    caption = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    save_split(tmp_path / "s", TEXTS.set_column(0, "caption", caption))
    found = list(open_source(config("s"), tmp_path).read(0, 3))
    assert [row.reason if isinstance(row, BadRow) else None for row in found] == [
        None,
        "column 'caption' is not UTF-8",
        None,
    ]


def test_offsets_that_point_elsewhere_are_bad_rows(tmp_path: Path) -> None:
    """A reader that trusts them leaves its memory."""
    save_split(tmp_path / "s", TEXTS)
    file = tmp_path / "s" / "data-00000-of-00001.arrow"
    written, wrong = (np.array(offsets, dtype="<i4").tobytes() for offsets in ([0, 3, 6], [0, 2**30, 2**30 + 9]))
    assert file.read_bytes().count(written) == 1
    file.write_bytes(file.read_bytes().replace(written, wrong))
    found = list(open_source(config("s"), tmp_path).read(0, 3))
    assert [isinstance(row, BadRow) for row in found] == [True, True, False]
    assert all("column 'caption' is damaged: " in row.reason for row in found if isinstance(row, BadRow))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.json", "{", r"state\.json is not JSON"),
        ("state.json", "[]", r"state\.json is not a JSON object"),
        ("state.json", "{}", r"state\.json names no data files"),
        ("state.json", '{"_data_files": [{"filename": "../x.arrow"}]}', "'../x.arrow', which is no plain name"),
        ("state.json", '{"_data_files": [{"filename": "/etc/x.arrow"}]}', "which is no plain name"),
        ("state.json", '{"_data_files": [{"filename": "x.py"}]}', "names 'x.py', expected an .arrow file"),
        ("state.json", '{"_data_files": [{"filename": "none.arrow"}]}', r"none\.arrow is missing"),
        ("state.json", '{"_data_files": [{}], "_indices_data_files": [{}]}', r"call flatten_indices\(\)"),
        ("dataset_dict.json", '{"splits": []}', "names no splits"),
        ("dataset_dict.json", '{"splits": ["../train"]}', "'../train', which is no plain name"),
        ("dataset_dict.json", '{"splits": ["train"]}', r"train/state\.json is missing"),
        ("data-00000-of-00001.arrow", "no arrow", "is not a readable Arrow file"),
        ("data-00000-of-00001.arrow", "", "is not a readable Arrow file"),
    ],
)
def test_a_damaged_description_fails_at_opening(tmp_path: Path, file: str, content: str, message: str) -> None:
    save_split(tmp_path / "s", TEXTS)
    (tmp_path / "s" / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        open_source(config("s"), tmp_path)


def test_a_cut_arrow_file_fails_at_opening(tmp_path: Path) -> None:
    save_split(tmp_path / "s", TEXTS)
    file = tmp_path / "s" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is not a readable Arrow file"):
        open_source(config("s"), tmp_path)


def test_settings_and_folders_that_do_not_fit(tmp_path: Path) -> None:
    write_hf_dataset(tmp_path)
    with pytest.raises(ValueError, match="set payload to 'bytes'"):
        open_source(config("saved", payload="path"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds neither dataset_dict\.json, state\.json nor Parquet files"):
        open_source(config("empty"), tmp_path)
    with pytest.raises(ValueError, match="needs a revision: a commit, or 'refs/convert/parquet'"):
        open_source(config("owner/name"), tmp_path)
    for field in ("name", "revision"):
        with pytest.raises(ValueError, match="belong to kind 'hf_dataset', got kind 'csv'"):
            SourceConfig(kind="csv", path="t.csv", **{field: "x"})


def test_a_hub_id_that_is_out_of_reach_is_a_clear_error(tmp_path: Path) -> None:
    message = (
        r"source\.path: 'owner/name' is no folder below .*, and revision main of that Hugging Face dataset can neither "
        r"be downloaded nor found in the cache \(LocalEntryNotFoundError: .*"
    )
    with pytest.raises(ValueError, match=message) as raised:
        open_source(config("owner/name", revision="main"), tmp_path)
    assert "\n" not in str(raised.value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snapshot folder, as the hub's library leaves it; it stands for the download."""
    snapshot = tmp_path / "hub" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)

    def download(repo_id: str, *, repo_type: str, revision: str, allow_patterns: list[str]) -> str:
        assert (repo_id, repo_type, revision, allow_patterns) == ("owner/name", "dataset", "main", ["*.parquet"])
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return snapshot


def put(snapshot: Path, *names: str, table: pa.Table = TEXTS) -> None:
    for name in names:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, snapshot / name)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["data/train-00000-of-00001.parquet", "data/val-00000-of-00001.parquet"], ["train", "validation"]),
        (["default/partial-train/0000.parquet", "default/unsupervised/0000.parquet"], ["train", "unsupervised"]),
        (["test/0000.parquet", "train/0000.parquet", "train/0001.parquet"], ["test", "train", "train"]),
        (["test/part.parquet", "train/part.parquet"], ["test", "train"]),
        (["all.parquet"], ["train"]),
        (["test.parquet", "train.parquet"], ["test", "train"]),
    ],
)
def test_the_place_of_a_parquet_file_tells_its_split(
    hub: Path, tmp_path: Path, names: list[str], splits: list[str]
) -> None:
    put(hub, *names)
    source = open_source(config("owner/name", revision="main"), tmp_path)
    assert [split for _, split in rows(source)] == [split for split in splits for _ in range(3)]
    assert len({identity for identity, _ in rows(source)}) == 3 * len(names)


def test_one_of_several_configurations_has_to_be_named(hub: Path, tmp_path: Path) -> None:
    put(hub, "de/train/0000.parquet", "en/train/0000.parquet", "en/test/0000.parquet")
    with pytest.raises(ValueError, match=r"source\.name: .* has several configurations, name one of \['de', 'en'\]"):
        open_source(config("owner/name", revision="main"), tmp_path)
    with pytest.raises(ValueError, match=r"source\.name: .* has no 'fr'; its folders are \['de', 'en', 'test'"):
        open_source(config("owner/name", revision="main", name="fr"), tmp_path)
    assert len(open_source(config("owner/name", revision="main", name="en"), tmp_path)) == 6


def test_the_fingerprint_of_a_hub_id_is_its_commit_and_not_its_download(hub: Path, tmp_path: Path) -> None:
    put(hub, "train/0000.parquet")
    chosen = config("owner/name", revision="main")
    before = open_source(chosen, tmp_path).fingerprint()
    put(hub, "train/0000.parquet")
    assert open_source(chosen, tmp_path).fingerprint() == before
    put(hub, "train/0001.parquet")
    assert open_source(chosen, tmp_path).fingerprint() != before


def test_media_of_the_hub_are_bytes_in_a_struct(hub: Path, tmp_path: Path) -> None:
    put(hub, "train/0000.parquet", table=hugging_face_table(pictures(3)))
    source = open_source(config("owner/name", revision="main", payload="bytes", payload_field="image"), tmp_path)
    assert [row.payload for row in source.read(0, 3) if isinstance(row, Sample)] == [one.png for one in pictures(3)]

"""Extraction in this process: plan, resume after a crash at any shard, rejected rows and their limit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.shards import EmbeddingDataset, extraction, verify_dataset
from pipeline.shards.extraction import extract_locally
from pipeline.shards.plan import plan_datasets, repeated_rows
from tests.tiny_project import note_rows, tiny_config
from tests.unit.shards.conftest import contents, extract_rows

pytestmark = pytest.mark.usefixtures("hash_encoders")


class CrashError(Exception):
    """Stands for the end of the process."""


def dirty_rows(count: int) -> list[dict[str, Any]]:
    rows = note_rows(count)
    rows[2]["caption"] = ""
    rows[5]["id"] = "note-0"
    rows[9]["text"] = "nan"
    return rows


def quiet(*_: object) -> None:
    pass


def test_one_dataset_for_each_modality_and_encoder(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, notes=dirty_rows(20), tiles=6)
    progress: list[tuple[str, str, int, int]] = []
    manifests = extract_locally(config, tmp_path, tmp_path / "out", on_progress=lambda *args: progress.append(args))
    assert list(manifests) == [("notes", "text-a"), ("notes", "text-b"), ("tiles", "image-a")]
    assert {key: (manifest.rows, manifest.width) for key, manifest in manifests.items()} == {
        ("notes", "text-a"): (17, 6),
        ("notes", "text-b"): (17, 9),
        ("tiles", "image-a"): (6, 5),
    }
    assert [args for args in progress if args[:2] == ("tiles", "image-a")] == [
        ("tiles", "image-a", 0, 6),
        ("tiles", "image-a", 6, 6),
    ]
    notes = EmbeddingDataset(tmp_path / "out" / "notes" / "text-b")
    assert notes.manifest.rejected_by_reason == {"empty caption": 1, "duplicate id": 1, "embedding holds NaN": 1}
    assert notes.ids(range(3)) == ["note-0", "note-1", "note-3"]
    assert notes.attributes([0])[0].keys() == {"side", "size"}
    tiles = EmbeddingDataset(tmp_path / "out" / "tiles" / "image-a")
    assert tiles.captions([0, 1]) == [("a square on the left",), ("a square on the right",)]


def test_rejected_rows_are_listed_with_their_source(tmp_path: Path) -> None:
    extract_rows(tmp_path, dirty_rows(20))
    table = pq.read_table(tmp_path / "out" / "notes" / "text-a" / "rejected.parquet").to_pylist()
    assert [(row["source_row"], row["id"], row["reason"]) for row in table] == [
        (2, "note-2", "empty caption"),
        (5, "note-0", "duplicate id"),
        (9, "note-9", "embedding holds NaN"),
    ]
    assert table[0]["source"] == f"{tmp_path / 'notes.jsonl'}:2"


def test_texts_are_encoded_once_for_all_encoders(tmp_path: Path) -> None:
    extract_rows(tmp_path, note_rows(20))
    first, second = (EmbeddingDataset(tmp_path / "out" / "notes" / name) for name in ("text-a", "text-b"))
    assert first.text_embeddings(range(20)).equal(second.text_embeddings(range(20)))
    assert first.manifest.text_encoder == second.manifest.text_encoder


@pytest.mark.parametrize("crash_at", range(6))
def test_a_run_that_crashed_at_any_shard_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    config = tiny_config(tmp_path, notes=dirty_rows(24))
    extract_locally(config, tmp_path, tmp_path / "whole", on_progress=quiet)
    written = []
    write = extraction.write_shard

    def crashing(directory: Path, *args: Any) -> Any:
        if len(written) == crash_at:
            (directory / ".shard-left.tmp").write_bytes(b"half a shard")
            raise CrashError
        written.append(directory)
        return write(directory, *args)

    monkeypatch.setattr(extraction, "write_shard", crashing)
    with pytest.raises(CrashError):
        extract_locally(config, tmp_path, tmp_path / "out", on_progress=quiet)
    monkeypatch.setattr(extraction, "write_shard", lambda *args: written.append(args[0]) or write(*args))
    extract_locally(config, tmp_path, tmp_path / "out", on_progress=quiet)
    assert len(written) == 6, "a finished shard was made again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_second_run_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = extract_rows(tmp_path, dirty_rows(24))
    before = contents(tmp_path / "out")
    monkeypatch.setattr(extraction, "write_shard", None)
    progress: list[tuple[Any, ...]] = []
    manifests = extract_locally(config, tmp_path, tmp_path / "out", on_progress=lambda *args: progress.append(args))
    assert contents(tmp_path / "out") == before
    assert progress == [("notes", "text-a", 24, 24), ("notes", "text-b", 24, 24)]
    assert len(manifests) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "rename"])
def test_a_rerun_repairs_exactly_what_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    config = extract_rows(tmp_path, dirty_rows(24))
    before = contents(tmp_path / "out")
    directory = tmp_path / "out" / "notes" / "text-a"
    victim, other = sorted(directory.glob("shard-*.arrow"))[:2]
    content = victim.read_bytes()
    if damage == "delete":
        victim.unlink()
    elif damage == "rename":
        victim.write_bytes(other.read_bytes())
    else:
        victim.write_bytes(content[:-9] if damage == "truncate" else content[:700] + b"?" + content[701:])
    assert verify_dataset(directory)
    written: list[str] = []
    write = extraction.write_shard
    monkeypatch.setattr(
        extraction, "write_shard", lambda *args: written.append(f"{args[0].name}-{args[1]}") or write(*args)
    )
    extract_locally(config, tmp_path, tmp_path / "out", on_progress=quiet)
    assert written == ["text-a-0"]
    assert contents(tmp_path / "out") == before


def test_other_content_replaces_every_shard_and_leaves_nothing_behind(tmp_path: Path) -> None:
    extract_rows(tmp_path, note_rows(24))
    rows = note_rows(24)
    rows[20]["caption"] = "a large circle"
    config = extract_rows(tmp_path, rows)
    extract_locally(config, tmp_path, tmp_path / "fresh", on_progress=quiet)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_dataset_in_the_making_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract_rows(tmp_path, note_rows(24))
    config = tiny_config(tmp_path, notes=note_rows(16))
    monkeypatch.setattr(extraction, "write_shard", lambda *_: (_ for _ in ()).throw(CrashError))
    with pytest.raises(CrashError):
        extract_locally(config, tmp_path, tmp_path / "out", on_progress=quiet)
    with pytest.raises(ValueError, match="holds no embedding dataset"):
        EmbeddingDataset(tmp_path / "out" / "notes" / "text-a")


def test_too_many_bad_rows_stop_the_run_with_their_reasons(tmp_path: Path) -> None:
    rows = note_rows(40)
    for row in rows[8:14]:
        row["caption"] = ""
    message = (
        r"dataset 'notes', encoder 'text-a': 6 of 40 rows were rejected \(6 x empty caption; first: .*notes.jsonl:8\), "
        r"more than extract.max_rejected_fraction = 0.1 allows: mend the rows listed in .*rejected.parquet"
    )
    with pytest.raises(ValueError, match=message):
        extract_rows(tmp_path, rows, limit=0.1)
    directory = tmp_path / "out" / "notes" / "text-a"
    assert pq.read_table(directory / "rejected.parquet").num_rows == 6
    assert not (directory / "manifest.json").exists()
    extract_rows(tmp_path, rows, limit=0.15)
    assert EmbeddingDataset(directory).manifest.rejected.rows == 6


def test_every_row_may_be_bad_where_the_limit_allows_it(tmp_path: Path) -> None:
    rows = note_rows(10)
    for row in rows:
        row["caption"] = ""
    extract_rows(tmp_path, rows, limit=1.0)
    dataset = EmbeddingDataset(tmp_path / "out" / "notes" / "text-a")
    assert len(dataset) == 0
    assert dataset.manifest.width == 6
    assert verify_dataset(tmp_path / "out" / "notes" / "text-a") == []


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(ValueError, match="embeddings cannot be written to .*out/notes/text-a: Not a directory"):
        extract_rows(tmp_path, note_rows(8))


def test_the_plan_changes_with_all_that_decides_the_rows(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, notes=note_rows(20))
    extract = config.extract

    def key(changed: Any) -> str:
        return plan_datasets(changed, tmp_path, tmp_path)[0].targets[0].content_key

    def with_dataset(**changes: Any) -> Any:
        return replace(config, datasets=(replace(config.datasets[0], **changes),))

    keys = [
        key(config),
        key(replace(config, extract=replace(extract, storage_dtype="float32"))),
        key(replace(config, extract=replace(extract, rows_per_shard=9))),
        key(replace(config, text_encoder=config.datasets[0].encoders[1])),
        key(with_dataset(encoders=config.datasets[0].encoders[::-1])),
        key(with_dataset(source=replace(config.datasets[0].source, attribute_fields=()))),
    ]
    assert len(set(keys)) == len(keys)
    assert key(replace(config, seed=99, extract=replace(extract, max_rejected_fraction=1.0, actors=7))) == keys[0]
    shutil.copy(tmp_path / "notes.jsonl", tmp_path / "copy.jsonl")
    assert key(with_dataset(source=replace(config.datasets[0].source, path="copy.jsonl"))) == keys[0]


def test_specs_cover_the_source_once(tmp_path: Path) -> None:
    plan = plan_datasets(tiny_config(tmp_path, notes=dirty_rows(20)), tmp_path, tmp_path)[0]
    assert [(spec.index, spec.start, spec.stop, spec.duplicates) for spec in plan.specs] == [
        (0, 0, 8, (5,)),
        (1, 8, 16, ()),
        (2, 16, 20, ()),
    ]


def test_the_first_of_equal_ids_is_kept() -> None:
    assert list(repeated_rows(["a", "b", "a", "c", "b", "a"])) == [2, 4, 5]

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from pipeline.config.artifacts import STAGE_FILE, StageDir, run_dir, write_text_atomic
from pipeline.config.presets import build_preset


def test_complete_only_for_the_same_work(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "a" / "b")
    assert not stage.is_complete("f1")
    stage.begin()
    assert not stage.is_complete("f1")
    stage.commit("f1", {"rows": 3})
    assert stage.is_complete("f1")
    assert not stage.is_complete("f2")
    assert stage.info() == {"rows": 3}


def test_begin_forgets_an_earlier_completion_and_keeps_the_rest(tmp_path: Path) -> None:
    stage = StageDir(tmp_path)
    (tmp_path / "shard").write_text("kept", encoding="utf-8")
    stage.begin()
    stage.commit("f1", {})
    stage.begin()
    assert not stage.is_complete("f1")
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\udcff"])
def test_a_damaged_record_is_no_completion(tmp_path: Path, text: str) -> None:
    (tmp_path / STAGE_FILE).write_bytes(text.encode("utf-8", errors="surrogateescape"))
    assert not StageDir(tmp_path).is_complete("f1")


def test_a_record_of_another_format_is_no_completion(tmp_path: Path) -> None:
    stage = StageDir(tmp_path)
    stage.commit("f1", {})
    record = json.loads((tmp_path / STAGE_FILE).read_text(encoding="utf-8"))
    (tmp_path / STAGE_FILE).write_text(json.dumps(record | {"format": 99}), encoding="utf-8")
    assert not stage.is_complete("f1")


def test_info_of_an_unfinished_stage_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no finished stage \(stage.json is missing\): run that stage first"):
        StageDir(tmp_path).info()


def test_unwritable_directory_fails_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    # Root may write anywhere, so the obstacle is a file and, where there is one, a file system that takes no folders.
    for path in (tmp_path / "file" / "stage", Path("/proc/semi")):
        with pytest.raises(ValueError, match="cannot be written .*: choose another with --set runs_dir=PATH"):
            StageDir(path).begin()


def test_full_disk_fails_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ValueError, match="cannot be written \\(No space left on device\\)"):
        StageDir(tmp_path).begin()


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record"
    write_text_atomic(path, "old")

    def crash(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk gone"):
        write_text_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_is_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "record"
    write_text_atomic(path, "text")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_run_dir_is_named_by_the_run(tmp_path: Path) -> None:
    assert run_dir(build_preset("smoke"), tmp_path) == tmp_path / "runs" / "smoke"

"""A run's folder in an object store: what a lost machine leaves there, and what another one gets."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.load import ConfigError, load_config
from pipeline.runtime.mirror import INDEX, OBJECTS, STATE, ForeignFolderError, Mirror, mirrored

FILES = ("stage.json", "a/weights.bin", "a/b/metrics.jsonl", "ray/log", ".hidden")


def write(folder: Path, **contents: str) -> None:
    for name, text in contents.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    """What counts of a folder."""
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    return {name: text for name, text in found.items() if not name.startswith((".", "ray/"))}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "demo"
    write(folder, stage_dot_json="{}", a__weights_dot_bin="1", a__b__metrics_dot_jsonl="x\n", ray__log="-", _dot_h="-")
    return folder


def pushed(folder: Path, store: Path) -> Mirror:
    mirror = Mirror(folder, store.as_uri())
    mirror.pull()
    assert mirror.push()
    return mirror


def fetched(tmp_path: Path, store: Path, name: str = "there") -> Path:
    folder = tmp_path / name / "demo"
    Mirror(folder, store.as_uri()).pull()
    return folder


def test_another_machine_gets_the_files_and_nothing_else(here: Path, store: Path, tmp_path: Path) -> None:
    pushed(here, store)
    there = fetched(tmp_path, store)
    assert content(there) == {"stage.json": "{}", "a/weights.bin": "1", "a/b/metrics.jsonl": "x\n"} == content(here)
    assert not (there / "ray").exists()
    assert Mirror(there, store.as_uri()).pull() == 0, "nothing is fetched twice"


def test_what_changes_is_sent_and_what_is_gone_goes(here: Path, store: Path, tmp_path: Path) -> None:
    mirror, there = pushed(here, store), fetched(tmp_path, store)
    index = (store / INDEX).read_bytes()
    assert mirror.push() and (store / INDEX).read_bytes() == index, "nothing changed"
    write(here, a__weights_dot_bin="2", c__new_dot_bin="3")
    shutil.rmtree(here / "a" / "b")
    assert mirror.push()
    assert len(list((store / OBJECTS).iterdir())) == 3, "content that no index names is removed"
    assert Mirror(there, store.as_uri()).pull() == 2
    assert content(there) == content(here) == {"stage.json": "{}", "a/weights.bin": "2", "c/new.bin": "3"}
    assert not (there / "a" / "b").exists(), "an empty folder would be taken for a checkpoint"


def test_work_that_was_not_sent_is_kept_where_nobody_else_went_on(here: Path, store: Path) -> None:
    pushed(here, store)
    write(here, a__weights_dot_bin="newer")
    Mirror(here, store.as_uri()).pull()
    assert content(here)["a/weights.bin"] == "newer"


def test_two_jobs_on_one_run_are_told(here: Path, store: Path, tmp_path: Path) -> None:
    mirror, there = pushed(here, store), fetched(tmp_path, store)
    other = Mirror(there, store.as_uri())
    other.pull()
    write(there, a__weights_dot_bin="theirs")
    write(here, a__weights_dot_bin="mine")
    assert other.push()
    with pytest.raises(ForeignFolderError, match="was written to by another job meanwhile"):
        mirror.push()


def test_a_folder_of_another_origin_is_left_alone(here: Path, store: Path, tmp_path: Path) -> None:
    pushed(here, store)
    other = tmp_path / "other" / "demo"
    write(other, stage_dot_json="mine")
    with pytest.raises(ForeignFolderError, match="has files that did not come from .*choose another --name"):
        Mirror(other, store.as_uri()).pull()
    assert content(other) == {"stage.json": "mine"}


class Killed(BaseException):
    """Stands for the moment a machine is lost."""


class DyingFiles:
    """A filesystem that is lost at its n-th write, perhaps with half of it done."""

    def __init__(self, files: Any, writes: int) -> None:
        self._files, self._left = files, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def open_output_stream(self, path: str) -> Any:
        self._left -= 1
        if self._left < 0:
            with self._files.open_output_stream(path) as stream:
                stream.write(b"half")
            raise Killed
        return self._files.open_output_stream(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    versions=st.lists(
        st.dictionaries(st.sampled_from(["a", "d/b", "d/c", "e.jsonl"]), st.text(max_size=3)), min_size=1, max_size=4
    ),
    writes=st.integers(0, 12),
)
def test_a_lost_machine_leaves_one_whole_state(
    versions: list[dict[str, str]], writes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("lost")
    folder, store = root / "here" / "demo", root / "store"
    folder.mkdir(parents=True)
    mirror = Mirror(folder, store.as_uri())
    mirror.pull()
    mirror._files = DyingFiles(mirror._files, writes)
    states: list[dict[str, str]] = [{}]
    try:
        for version in versions:
            for path in [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]:
                path.unlink()
            for name, text in version.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text, newline="")
            states.append(content(folder))
            assert mirror.push()
    except Killed:
        pass
    there = root / "there" / "demo"
    Mirror(there, store.as_uri()).pull()
    assert content(there) in states[-2:], "the last state that was sent, or the one before"
    write(there, new="goes on")
    assert pushed(there, store)


def test_a_fetch_that_was_cut_off_is_made_whole(
    here: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(here, store)
    there = tmp_path / "there" / "demo"
    receive, left = Mirror._receive, [1]

    def dies(self: Mirror, name: str, file: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        receive(self, name, file)

    monkeypatch.setattr(Mirror, "_receive", dies)
    with pytest.raises(Killed):
        Mirror(there, store.as_uri()).pull()
    assert content(there) != content(here)
    monkeypatch.setattr(Mirror, "_receive", receive)
    Mirror(there, store.as_uri()).pull()
    assert content(there) == content(here)


def test_a_file_that_changes_while_it_is_sent_waits(
    here: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = pushed(here, store)
    write(here, a__weights_dot_bin="second")
    send = Mirror._send

    def busy(self: Mirror, name: str, file: Any) -> None:
        send(self, name, file)
        write(here, a__weights_dot_bin="third!")

    monkeypatch.setattr(Mirror, "_send", busy)
    assert not mirror.push()
    assert content(fetched(tmp_path, store))["a/weights.bin"] == "1"
    monkeypatch.setattr(Mirror, "_send", send)
    assert mirror.push()
    assert content(fetched(tmp_path, store, "later"))["a/weights.bin"] == "third!"


def test_a_record_that_grows_does_not_wait(here: Path, store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    mirror = pushed(here, store)
    write(here, a__b__metrics_dot_jsonl="x\ny\n")
    send = Mirror._send

    def growing(self: Mirror, name: str, file: Any) -> None:
        with (here / "a/b/metrics.jsonl").open("a") as stream:
            stream.write("z\n")
        send(self, name, file)

    monkeypatch.setattr(Mirror, "_send", growing)
    assert mirror.push()
    assert content(fetched(tmp_path, store))["a/b/metrics.jsonl"] == "x\ny\n"


def test_damage_in_the_store_is_told(here: Path, store: Path, tmp_path: Path) -> None:
    pushed(here, store)
    for path in (store / OBJECTS).iterdir():
        path.write_text("damaged")
    with pytest.raises(ValueError, match="is damaged: remove the run there"):
        fetched(tmp_path, store)
    index = json.loads((store / INDEX).read_text())
    index["files"]["../outside"] = index["files"].pop("stage.json")
    (store / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"is not the index of a run \('../outside' leads elsewhere\)"):
        fetched(tmp_path, store, "second")


def test_a_block_sends_on_its_way_and_at_its_end_whatever_ends_it(here: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed), mirrored(here, store.as_uri(), every_s=0.01) as count:
        assert count == 0
        index = store / "demo" / INDEX
        moment = threading.Event()
        while not index.is_file():
            assert not moment.wait(0.01)
        write(here, a__weights_dot_bin="last")
        raise Killed
    there = tmp_path / "there" / "demo"
    with mirrored(there, store.as_uri()) as count:
        assert count == 3 and content(there)["a/weights.bin"] == "last"
    assert (there / STATE).is_file()
    with mirrored(here, None) as count:
        assert count == 0


def test_a_store_that_cannot_be_written_is_told_before_anything_starts(here: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(ValueError, match="runtime.mirror: file://.*cannot be written .*name a bucket that exists"),
        mirrored(here, (tmp_path / "file").as_uri()),
    ):
        raise AssertionError("began")


def test_work_that_cannot_be_sent_in_the_end_is_an_error(here: Path, store: Path) -> None:
    message = "has an earlier state of the run .*give the same command again"
    with pytest.raises(OSError, match=message), mirrored(here, store.as_uri()):
        shutil.rmtree(store / "demo" / OBJECTS)
        (store / "demo" / OBJECTS).write_text("in the way")
    (store / "demo" / OBJECTS).unlink()
    with mirrored(here, store.as_uri()):
        pass
    assert (store / "demo" / INDEX).is_file()


def test_a_store_that_is_away_for_a_while_is_tried_again(
    here: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, away = Mirror._index, [False]

    def read(self: Mirror) -> Any:
        if away[0]:
            raise OSError("no route to host")
        return index(self)

    monkeypatch.setattr(Mirror, "_index", read)
    moment = threading.Event()
    with mirrored(here, store.as_uri(), every_s=0.01):
        away[0] = True
        assert not moment.wait(0.1)
        away[0] = False
        while not (store / "demo" / INDEX).is_file():
            assert not moment.wait(0.01)


@pytest.mark.parametrize("mirror", ["bucket/x", "s3://key:hidden@bucket/x"])
def test_a_mirror_is_a_uri_without_credentials(mirror: str) -> None:
    with pytest.raises(ConfigError, match="mirror must be a URI without credentials") as caught:
        load_config(preset="smoke", overrides=[f"runtime.mirror={mirror}"])
    assert "hidden" not in str(caught.value)

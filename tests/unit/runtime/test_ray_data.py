"""What guards a shard's way through the workers; without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.runtime import ray_data
from pipeline.runtime.ray_data import MAX_ATTEMPTS, _attempt, _check_size, _Work
from pipeline.shards.build import ShardSpec
from pipeline.shards.extraction import ShardTask, extract_locally
from pipeline.shards.plan import plan_datasets
from tests.tiny_project import note_rows, save_text_model, tiny_config

TASK = ShardTask(dataset=0, spec=ShardSpec(index=3, start=24, stop=32), encoders=(0, 1))


@pytest.fixture
def work(tmp_path: Path) -> _Work:
    for name in ("text-a", "text-b"):
        save_text_model(tmp_path / "models" / name, width=8, seed=0)
    config = tiny_config(tmp_path, notes=note_rows(40))
    plans = tuple(plan_datasets(config, tmp_path, tmp_path))
    return _Work(config=config, root=tmp_path, plans=plans, device="cpu", attempts=tmp_path)


class ProcessEndError(BaseException):
    """Stands for the end of the process: markers stay as they are."""


def end_process(work: _Work, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ProcessEndError), _attempt("decode", TASK, work):
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        raise ProcessEndError


def test_a_shard_that_ends_its_process_is_given_up(work: _Work, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(MAX_ATTEMPTS):
        end_process(work, monkeypatch)
    message = r"dataset 'notes': the process that has to decode rows 24 to 31 of notes.jsonl died 3 times"
    with pytest.raises(ValueError, match=message), _attempt("decode", TASK, work):
        pytest.fail("the shard was tried once more")


def test_only_deaths_in_a_row_count(work: _Work, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        for _ in range(MAX_ATTEMPTS - 1):
            end_process(work, monkeypatch)
        with _attempt("decode", TASK, work):
            pass
        with pytest.raises(KeyError), _attempt("decode", TASK, work):
            raise KeyError
    assert not list(work.attempts.glob("decode-*"))


def test_deaths_of_decoder_and_encoder_are_counted_apart(work: _Work, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(MAX_ATTEMPTS):
        end_process(work, monkeypatch)
    tried = []
    with _attempt("encode", TASK, work):
        tried.append("encode")
    with pytest.raises(ValueError, match="has to decode"), _attempt("decode", TASK, work):
        tried.append("decode")
    assert tried == ["encode"]


def test_a_shard_too_large_for_the_way_says_how_many_rows_fit(work: _Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "MAX_DECODED_BYTES", 2**20)
    _check_size(pa.py_buffer(bytes(2**20)), TASK, work)
    message = r"'notes': 8 rows decode to 2 MiB, the limit is 1: set extract.rows_per_shard to at most 4"
    with pytest.raises(ValueError, match=message):
        _check_size(pa.py_buffer(bytes(2**21)), TASK, work)


def test_work_has_a_value_so_that_a_process_opens_its_sources_once(work: _Work) -> None:
    import copy

    twin: Any = copy.deepcopy(work)
    assert twin == work
    assert hash(twin) == hash(work)
    assert ray_data._builder(twin) is ray_data._builder(work)


def test_without_ray_the_local_path_is_taken(work: _Work, tmp_path: Path) -> None:
    from dataclasses import replace

    config = replace(work.config, runtime=replace(work.config.runtime, engine="local"))
    manifests = ray_data.extract(config, tmp_path, tmp_path / "out", on_progress=lambda *_: None)
    assert [manifest.rows for manifest in manifests.values()] == [40, 40]


def test_what_a_killed_run_left_is_removed_where_no_shard_is_missing(work: _Work, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifests = extract_locally(work.config, tmp_path, out, on_progress=lambda *_: None)
    before = {path for path in out.rglob("*") if path.is_file()}
    (out / ".attempts").mkdir()
    (out / ".attempts" / "encode-0-3").touch()
    (out / "notes" / "text-a" / ".shard-x1.tmp").touch()
    (out / "notes" / "text-b" / ".manifest.json.x1.tmp").touch()
    assert work.config.runtime.engine != "local"
    assert ray_data.extract(work.config, tmp_path, out, on_progress=lambda *_: None) == manifests
    assert {path for path in out.rglob("*") if path.is_file()} == before
    assert not (out / ".attempts").exists()

"""The store below the runs: new, moved, chosen by the user, away for a while, or refusing a record."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from pipeline.config.schema import TrackingConfig
from pipeline.tracking.store import local_uri, quiet_mlflow
from tests.unit.tracking.runs import history, open_run, python, runs_of


def test_a_new_store_is_made_quietly_with_absolute_artifacts(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from pipeline.config.schema import TrackingConfig\n"
        "from pipeline.tracking import open_tracker\n"
        "with open_tracker(TrackingConfig(), Path('runs'), name='demo', params={'a': 1}, commit='c',\n"
        "                  config_fingerprint='f', source='jobs.demo') as run:\n"
        "    with run.stage('one') as stage:\n"
        "        stage.log_metrics({'loss': 1.0}, 0)\n"
        "        stage.log_artifact(Path('note.txt'))\n"
    )
    (tmp_path / "note.txt").write_text("hello")
    done = python(code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note.txt", "runs"]
    (copy,) = (tmp_path / "runs" / "mlartifacts").rglob("note.txt")
    assert copy.read_text() == "hello"


def test_a_moved_runs_folder_keeps_its_artifacts(runs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    with open_run(runs_dir, name="before") as run:
        run.log_artifact(tmp_path / "note.txt")
    moved = tmp_path / "elsewhere"
    runs_dir.rename(moved)
    with open_run(moved, name="after") as run:
        run.log_artifact(tmp_path / "note.txt")
    assert not runs_dir.exists()
    for name in ("before", "after"):
        uri = runs_of(moved)[name].info.artifact_uri
        assert (Path(uri) / "note.txt").read_text() == "hello"
        assert Path(uri).is_relative_to(moved)


def test_an_experiment_with_a_place_of_its_own_is_left_alone(runs_dir: Path, tmp_path: Path) -> None:
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    client.create_experiment("semi", artifact_location=str(tmp_path / "chosen"))
    with open_run(runs_dir) as run:
        run.log_metrics({"x": 0.0})
    with sqlite3.connect(runs_dir / "mlflow.db") as connection:
        rows = connection.execute("SELECT artifact_location FROM experiments WHERE name = 'semi'").fetchall()
    assert rows == [(str(tmp_path / "chosen"),)]


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "sqlite:////proc/nowhere/x.db", "postgresql://me:pw@127.0.0.1:9/x"]
)
def test_a_store_that_is_not_there_is_an_error_before_the_work(tmp_path: Path, uri: str) -> None:
    message = r"^tracking\.uri: .*tracking\.enabled=false$"
    with pytest.raises(ValueError, match=message) as caught, open_run(tmp_path, config=TrackingConfig(uri=uri)) as run:
        run.stage("one")
    assert "pw" not in str(caught.value)


def test_a_store_that_goes_away_costs_a_message_and_gets_everything_later(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("hello")
    mlflow = quiet_mlflow()
    monkeypatch.setattr("pipeline.tracking.mlflow_tracker.PATIENCE_S", 0.5)

    def away(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("no answer")

    with caplog.at_level(logging.ERROR), monkeypatch.context() as outage:
        with open_run(runs_dir, key="k") as run:
            run.log_metrics({"x": 1.0})
            for method in ("create_run", "search_runs", "log_batch", "log_artifact", "set_terminated"):
                outage.setattr(mlflow.MlflowClient, method, away)
            with run.stage("meta_train") as stage:
                stage.log_metrics({"loss": 0.5}, 3)
                stage.log_artifact(tmp_path / "note.txt")
                stage.log_table("t", {"a": [1]})
                stage.log_params({"late": 1})
        assert "did not take everything of demo, meta_train; it waits in" in caplog.text
    for thread in threading.enumerate():  # this process lives on, so its own threads deliver
        if thread.name == "tracking":
            thread.join(60)
    found = runs_of(runs_dir)
    assert {name: each.info.status for name, each in found.items()} == {"demo": "FINISHED", "meta_train": "FINISHED"}
    assert history(runs_dir, found["meta_train"], "loss") == [(3, 0.5)]
    assert found["meta_train"].data.params == {"late": "1"}
    assert len(list((runs_dir / "mlartifacts").rglob("note.txt"))) == len(list(runs_dir.rglob("t.json"))) == 1


def test_what_the_store_refuses_for_good_does_not_hold_up_the_rest(
    runs_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), open_run(runs_dir) as run:
        run.log_metrics({"bad!name": 1.0})
        run.log_metrics({"good": 2.0})
    assert "metrics was not stored" in caplog.text
    record = runs_of(runs_dir)["demo"]
    assert record.data.metrics == {"good": 2.0} and record.info.status == "FINISHED"

"""Runs as MLflow keeps them."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.config.schema import TrackingConfig
from pipeline.tracking import NullTracker, RunHandle, Tracker, attach, open_tracker
from pipeline.tracking.store import local_uri, quiet_mlflow

COMMIT = "0123456789abcdef0123456789abcdef01234567+dirty"


def open_run(
    runs_dir: Path,
    *,
    name: str = "demo",
    config: TrackingConfig | None = None,
    params: Any = None,
    key: str | None = None,
) -> Tracker:
    return open_tracker(
        config or TrackingConfig(),
        runs_dir,
        name=name,
        params={"seed": 0} if params is None else params,
        commit=COMMIT,
        config_fingerprint="feed",
        source="jobs.demo",
        key=key,
    )


def runs_of(runs_dir: Path) -> dict[str, Any]:
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    experiment = client.get_experiment_by_name("semi")
    if experiment is None:
        return {}
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def history(runs_dir: Path, run: Any, name: str) -> list[tuple[int, float]]:
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options)


def test_a_parent_with_a_child_a_stage(runs_dir: Path) -> None:
    with open_run(runs_dir) as run:
        for name in ("meta_train", "evaluate"):
            with run.stage(name, params={"hypernet": {"rank": 32}}) as stage:
                stage.log_metrics({"loss": 1.0}, 0)
        run.describe("**good**")
    runs = runs_of(runs_dir)
    assert set(runs) == {"demo", "meta_train", "evaluate"}
    parent, child = runs["demo"], runs["meta_train"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params == {"hypernet.rank": "32"}
    assert parent.data.params == {"seed": "0"}
    assert parent.data.tags["mlflow.note.content"] == "**good**"
    for each in runs.values():
        assert each.info.status == "FINISHED"
        assert (each.data.tags["commit"], each.data.tags["config_fingerprint"]) == (COMMIT, "feed")
        assert each.data.tags["mlflow.source.git.commit"] == COMMIT.removesuffix("+dirty")
        assert each.data.tags["mlflow.source.name"] == "jobs.demo"


def test_metrics_over_steps_are_complete(runs_dir: Path) -> None:
    with open_run(runs_dir) as run, run.stage("meta_train") as stage:
        for step in range(1234):
            stage.log_metrics({"loss": 1.0 / (step + 1), "queries_per_s": 5.0}, step)
    run_of = runs_of(runs_dir)["meta_train"]
    assert history(runs_dir, run_of, "loss") == [(step, 1.0 / (step + 1)) for step in range(1234)]
    assert len(history(runs_dir, run_of, "queries_per_s")) == 1234


def test_flush_makes_metrics_visible_before_the_end(runs_dir: Path) -> None:
    with open_run(runs_dir) as run:
        run.log_metrics({"loss": 2.0}, 5)
        run.flush()
        assert history(runs_dir, runs_of(runs_dir)["demo"], "loss") == [(5, 2.0)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad https://me:pw@host"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(0), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(2), "FAILED"),
        (SystemExit("text"), "FAILED"),
    ],
)
def test_every_way_out_sets_the_final_state(runs_dir: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), open_run(runs_dir) as run, run.stage("meta_train") as stage:
        stage.log_metrics({"loss": 1.0}, 0)
        raise error
    runs = runs_of(runs_dir)
    assert {name: run.info.status for name, run in runs.items()} == {"demo": status, "meta_train": status}
    assert history(runs_dir, runs["meta_train"], "loss") == [(0, 1.0)]
    if isinstance(error, ValueError):
        assert runs["meta_train"].data.tags["error"] == "ValueError: bad https://***@host"


def test_a_failed_stage_does_not_fail_the_ones_before(runs_dir: Path) -> None:
    with pytest.raises(RuntimeError), open_run(runs_dir) as run:
        with run.stage("extract"):
            pass
        with run.stage("meta_train"):
            raise RuntimeError("boom")
    statuses = {name: run.info.status for name, run in runs_of(runs_dir).items()}
    assert statuses == {"demo": "FAILED", "extract": "FINISHED", "meta_train": "FAILED"}


def test_a_pipeline_that_skips_everything_leaves_no_trace_and_does_not_import_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.config.schema import TrackingConfig\n"
        "from pipeline.tracking import open_tracker\n"
        f"with open_tracker(TrackingConfig(), Path({str(tmp_path)!r}) / 'runs', name='demo', params={{}}, commit='c',\n"
        "                  config_fingerprint='f', source='jobs.demo') as run:\n"
        "    run.flush()\n"
        "print('mlflow' in sys.modules)\n"
    )
    done = python(code)
    assert (done.stdout, done.stderr, done.returncode) == ("False\n", "", 0)
    assert list(tmp_path.iterdir()) == []


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


def test_more_params_than_one_request_may_carry(runs_dir: Path) -> None:
    with open_run(runs_dir, params={f"p{number}": number for number in range(350)}) as run, run.stage("one"):
        pass
    assert len(runs_of(runs_dir)["demo"].data.params) == 350


def test_a_whole_preset_is_logged(runs_dir: Path) -> None:
    config = load_config(preset="smoke", file=None, overrides=[])
    with open_run(runs_dir, params=config) as run, run.stage("one"):
        pass
    params = runs_of(runs_dir)["demo"].data.params
    assert params["meta.optim.steps"] == str(config.meta.optim.steps)
    assert params["llm.prompt"] == config.llm.prompt


def test_a_param_cannot_change_but_may_be_repeated(runs_dir: Path) -> None:
    with open_run(runs_dir) as run:
        run.log_params({"rank": 8})
        run.log_params({"rank": 8, "seed": 0, "width": 64})
        with pytest.raises(ValueError, match="param 'rank' of run 'demo' is already '8' and cannot become '9'"):
            run.log_params({"rank": 9})
        with pytest.raises(ValueError, match="'seed'"):
            run.log_params({"seed": 1})
    assert runs_of(runs_dir)["demo"].data.params == {"seed": "0", "rank": "8", "width": "64"}


def test_artifacts_keep_their_folders(runs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").write_bytes(b"png")
    (tmp_path / "report.md").write_text("![a](plots/a.png)")
    with open_run(runs_dir) as run:
        run.log_artifact(tmp_path / "report.md")
        run.log_artifact(tmp_path / "plots")
        run.log_artifact(tmp_path / "plots", "more")
        with pytest.raises(FileNotFoundError, match="missing.png does not exist"):
            run.log_artifact(tmp_path / "missing.png")
    (root,) = (runs_dir / "mlartifacts").glob("*/artifacts")
    stored = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert stored == ["more/plots/a.png", "plots/a.png", "report.md"]


def test_tables_are_stored_as_mlflow_shows_them(runs_dir: Path) -> None:
    columns: dict[str, list[object]] = {
        "reference": ["a cat", "a | dog"],
        "caption": ["a cat", "a cow"],
        "score": [1.0, None],
    }
    with open_run(runs_dir) as run:
        run.log_table("captions", columns)
        with pytest.raises(ValueError, match=r"columns of one length, got \{'a': 1, 'b': 2\}"):
            run.log_table("bad", {"a": [1], "b": [1, 2]})
    record = runs_of(runs_dir)["demo"]
    (path,) = (runs_dir / "mlartifacts").rglob("captions.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["reference", "caption", "score"]
    assert table["data"] == [["a cat", "a cat", 1.0], ["a | dog", "a cow", None]]
    assert json.loads(record.data.tags["mlflow.loggedArtifacts"]) == [{"path": "captions.json", "type": "table"}]


def test_a_worker_logs_to_the_run_of_its_driver_and_does_not_end_it(runs_dir: Path) -> None:
    with open_run(runs_dir) as run, run.stage("meta_train") as stage:
        handle = stage.handle
        assert handle is not None
        code = (
            "from pathlib import Path, PosixPath\n"
            "from pipeline.tracking import RunHandle, attach\n"
            f"handle = RunHandle(**{asdict(handle)!r})\n"
            "with attach(handle) as run:\n"
            "    for step in range(100):\n"
            "        run.log_metrics({'loss': float(step)}, step)\n"
            "    raise SystemExit(3)\n"
        )
        done = python(code, cwd=Path.cwd())
        assert (done.returncode, done.stderr) == (3, "")
        assert runs_of(runs_dir)["meta_train"].info.status == "RUNNING"
        stage.log_metrics({"loss": 100.0}, 100)
    record = runs_of(runs_dir)["meta_train"]
    assert record.info.status == "FINISHED"
    assert history(runs_dir, record, "loss") == [(step, float(step)) for step in range(101)]


def test_attaching_again_sees_the_params_that_are_there(runs_dir: Path) -> None:
    with open_run(runs_dir) as run:
        handle = run.handle
        with attach(handle) as again, pytest.raises(ValueError, match="'seed' .* is already '0'"):
            again.log_params({"seed": 7})
    assert isinstance(attach(None), NullTracker)


def test_a_handle_does_not_show_the_address() -> None:
    handle = RunHandle(key="k", name="n", uri="postgresql://me:pw@db/x", experiment="semi", spool_dir=Path())
    assert "pw" not in repr(handle)


def test_runs_of_killed_processes_are_closed_by_the_next_and_living_ones_are_not(runs_dir: Path) -> None:
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from pipeline.config.schema import TrackingConfig\n"
        "from pipeline.tracking import open_tracker\n"
        f"run = open_tracker(TrackingConfig(), Path({str(runs_dir)!r}), name='killed', params={{}}, commit='c',\n"
        "                   config_fingerprint='f', source='jobs.demo')\n"
        "run.stage('killed_stage').__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with open_run(runs_dir, name="alive") as alive:
        alive.log_metrics({"x": 0.0})
        assert python(code).returncode == -signal.SIGKILL
        assert runs_of(runs_dir)["killed"].info.status == "RUNNING"
        with open_run(runs_dir, name="next") as after:
            after.log_metrics({"x": 0.0})
            statuses = {name: run.info.status for name, run in runs_of(runs_dir).items()}
    assert statuses == {"killed": "KILLED", "killed_stage": "KILLED", "alive": "RUNNING", "next": "RUNNING"}


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


def test_a_trial_is_continued_by_its_key_in_any_process(runs_dir: Path) -> None:
    with open_run(runs_dir) as sweep:
        with attach(sweep.handle) as parent, parent.child("trial 3: rank=8", "trial", {"rank": 8}, key="t3") as trial:
            for step in range(20):
                trial.log_metrics({"score": step / 4}, step)
        with pytest.raises(RuntimeError), sweep.child("trial 4", "trial", {"rank": 9}, key="t4"):
            raise RuntimeError("boom")
        with attach(sweep.handle) as parent, parent.child("trial 3: rank=8", "trial", {"rank": 8}, key="t3") as trial:
            for step in range(15, 30):
                trial.log_metrics({"score": step / 4, "last": 1.0}, step)
            with trial.stage("meta_train") as stage:
                stage.log_metrics({"loss": 1.0})
    runs = runs_of(runs_dir)
    assert {name: run.info.status for name, run in runs.items()} == {
        "demo": "FINISHED", "trial 3: rank=8": "FINISHED", "trial 4": "FAILED", "meta_train": "FINISHED"
    }  # fmt: skip
    trial_run = runs["trial 3: rank=8"]
    assert history(runs_dir, trial_run, "score") == [(step, step / 4) for step in range(30)]
    assert trial_run.data.tags["mlflow.parentRunId"] == runs["demo"].info.run_id
    assert (trial_run.data.tags["kind"], trial_run.data.tags["attempts"]) == ("trial", "2")
    assert runs["meta_train"].data.tags["mlflow.parentRunId"] == trial_run.info.run_id
    assert "attempts" not in runs["meta_train"].data.tags


def test_a_later_job_with_the_same_key_goes_on_in_the_same_run(runs_dir: Path) -> None:
    for stage in ("pretrain_projector", "meta_train"):
        with open_run(runs_dir, key="folder-feed") as run, run.stage(stage, key=stage):
            pass
    message = "began with seed=0 and cannot continue with 1: MLflow's params never change"
    other = open_run(runs_dir, key="folder-feed", params={"seed": 1})
    with pytest.raises(ValueError, match=message), other:
        other.log_metrics({"x": 0.0})
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    runs = client.search_runs([client.get_experiment_by_name("semi").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["demo", "meta_train", "pretrain_projector"]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_finished_stage_that_is_done_again_is_a_new_run(runs_dir: Path) -> None:
    for value in (1.0, 2.0):
        with open_run(runs_dir, key="k") as run, run.stage("meta_train", key="m") as stage:
            for step in range(3):
                stage.log_metrics({"loss": value}, step)
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    runs = client.search_runs(["1"], filter_string="attributes.run_name = 'meta_train'")
    values = [[p.value for p in client.get_metric_history(run.info.run_id, "loss")] for run in runs]
    assert sorted(values) == [[1.0] * 3, [2.0] * 3]


def test_a_child_with_other_params_is_a_new_run(runs_dir: Path) -> None:
    with open_run(runs_dir) as sweep:
        for rank in (8, 16):
            with sweep.child(f"rank {rank}", "trial", {"rank": rank}, key="t") as trial:
                trial.log_metrics({"score": float(rank)})
    runs = runs_of(runs_dir)
    assert {name: run.data.params.get("rank") for name, run in runs.items()} == {
        "demo": None, "rank 8": "8", "rank 16": "16"
    }  # fmt: skip
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_a_run_that_another_process_writes_is_not_joined(runs_dir: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.config.schema import TrackingConfig\n"
        "from pipeline.tracking import open_tracker\n"
        f"with open_tracker(TrackingConfig(), Path({str(runs_dir)!r}), name='demo', params={{'seed': 0}}, commit='c',\n"
        "                   config_fingerprint='f', source='jobs.demo', key='k') as run:\n"
        "    run.log_metrics({'x': 0.0})\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None and job.stdout.readline() == "ready\n"
        message, second = "'demo' is being written by another process: wait for its end", open_run(runs_dir, key="k")
        with pytest.raises(ValueError, match=message), second:
            second.log_metrics({"x": 1.0})
        job.communicate("\n")
    assert runs_of(runs_dir)["demo"].info.status == "FINISHED"


def test_datasets_and_models_are_linked_to_their_run(runs_dir: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    with open_run(runs_dir) as run, run.stage("meta_train") as stage:
        stage.log_dataset("image/a", digest="feed", source="/runs/a", context="training", profile={"rows": 3})
        stage.log_model("meta_train", weights, kind="safetensors", params={"steps": 4})
        with pytest.raises(FileNotFoundError, match="missing does not exist"):
            stage.log_model("other", tmp_path / "missing", kind="safetensors")
    record = runs_of(runs_dir)["meta_train"]
    (dataset,) = record.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest, dataset.dataset.profile) == ("image/a", "feed", '{"rows": 3}')
    assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "training")]
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    model = client.get_logged_model(record.outputs.model_outputs[0].model_id)
    assert (model.name, model.source_run_id, model.params) == ("meta_train", record.info.run_id, {"steps": "4"})
    assert (Path(model.artifact_location) / "weights.safetensors").read_bytes() == b"weights"


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


def test_stages_show_what_the_machine_did(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.mlflow_tracker.SYSTEM_METRICS_S", 0.1)
    import time

    with open_run(runs_dir) as run, run.stage("meta_train"):
        time.sleep(1.0)
    metrics = runs_of(runs_dir)["meta_train"].data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in metrics
    assert runs_of(runs_dir)["demo"].data.metrics == {}


def test_nothing_is_tracked_where_it_is_switched_off(tmp_path: Path) -> None:
    with open_run(tmp_path, config=TrackingConfig(enabled=False)) as run:
        assert isinstance(run, NullTracker)
        with run.stage("one", params={"a": 1}) as stage:
            stage.log_metrics({"loss": 1.0}, 0)
            stage.log_artifact(tmp_path / "missing")
            stage.log_table("t", {})
            stage.log_params({"a": 1})
            stage.set_tags({"a": "b"})
            stage.describe("text")
            stage.flush()
        assert run.handle is None
    assert list(tmp_path.iterdir()) == []

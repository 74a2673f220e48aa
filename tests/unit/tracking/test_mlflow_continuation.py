"""Runs that are gone on with: by workers, by later attempts and jobs, after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.tracking import NullTracker, RunHandle, attach
from pipeline.tracking.store import local_uri, quiet_mlflow
from tests.unit.tracking.runs import history, open_run, python, runs_of


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

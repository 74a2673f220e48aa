"""Sweeps as users start them: killed and continued to the same trials; a failed trial; the best one trained in full."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs._sweep_tracking import shown
from tests.drivers import ROOT, Driver, start_driver

# Whole sweeps, one of them killed: many minutes, so `make chaos` runs them.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

KILLED = """
metric: cider_d
validation: [audio]
samples: 2
space:
  hypernet.rank: {grid: [2, 4]}
  meta.optim.learning_rate: {loguniform: [1e-3, 1e-1]}
"""
FAILING = """
metric: cider_d
search: random
scheduler: asha
rungs: [2]
samples: 2
validation: [audio]
fixed: {hypernet.width: 128}
space:
  hypernet.kind: {grid: [equivariant, attention]}
  hypernet.rank: {grid: [4, 4096], when: {hypernet.kind: [attention]}}
"""
TRIALS = 4


class Sweeps:
    """Sweeps in one folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drivers: list[Driver] = []

    def start(self, name: str, space: str, *options: str) -> Driver:
        file = self.folder / f"{name}.yaml"
        file.write_text(space, encoding="utf-8")
        settings = {"runs_dir": self.folder, "tracking.enabled": "true"}
        arguments = ["--preset", "smoke", "--name", name, "--space", str(file)]
        arguments += [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
        driver = start_driver("tune", [*arguments, *options], log=self.folder / f"{name}.log", marker=self.folder)
        self.drivers.append(driver)
        return driver

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def records(self, name: str) -> list[dict[str, Any]]:
        files = sorted((self.folder / name / "tune" / "trials").glob("*/trial.json"))
        return [json.loads(file.read_text()) for file in files]

    def finished(self, name: str) -> int:
        return [record["state"] for record in self.records(name)].count("finished")

    def mlflow(self, name: str) -> tuple[Any, list[Any]]:
        """The sweep's run, and those of its trials."""
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        (experiment,) = client.search_experiments(filter_string="name = 'semi'")
        runs = client.search_runs([experiment.experiment_id])
        (sweep,) = [run for run in runs if run.info.run_name == name and run.data.tags["kind"] == "sweep"]
        below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == sweep.info.run_id]
        return sweep, sorted((run for run in below if run.data.tags["kind"] == "trial"), key=lambda r: r.info.run_name)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweeps]:
    sweeps = Sweeps(tmp_path_factory.mktemp("sweeps"))
    try:
        yield sweeps
    finally:
        for driver in sweeps.drivers:
            driver.end()


def _job(job: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"jobs.{job}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _results(record: dict[str, Any]) -> list[tuple[float, float]]:
    return [(result["steps"], result["score"]) for result in record["results"]]


@pytest.fixture(scope="module")
def whole(sweeps: Sweeps) -> list[dict[str, Any]]:
    """Trials of a sweep that nobody disturbed."""
    sweeps.start("whole", KILLED, "--set", "runtime.engine=deepspeed").finish()
    assert sweeps.finished("whole") == TRIALS
    return sweeps.records("whole")


def test_a_killed_sweep_goes_on_with_the_very_same_trials(sweeps: Sweeps, whole: list[dict[str, Any]]) -> None:
    """Its trials are Ray Train runs; SIGKILL while one is done and others run loses and repeats none."""
    name, on_ray = "cut", ("--set", "runtime.engine=deepspeed")
    driver = sweeps.start(name, KILLED, *on_ray)

    def in_the_middle() -> bool:
        return sweeps.finished(name) >= 1 and len(sweeps.records(name)) > 2

    assert not driver.wait(stop=in_the_middle, poll_s=0.02), sweeps.said(name)
    driver.kill()
    trials = sweeps.folder / name / "tune" / "trials"
    kept = {file: file.stat().st_mtime_ns for file in trials.glob("*/trial.json") if '"finished"' in file.read_text()}
    assert 1 <= len(kept) < len(sweeps.records(name)) <= TRIALS
    # At once: what is left of the killed cluster must not matter.
    sweeps.start(name, KILLED, *on_ray, "--resume").finish()
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    records = sweeps.records(name)
    assert [record["number"] for record in records] == list(range(TRIALS))
    assert [record["values"] for record in records] == [record["values"] for record in whole]
    assert [_results(record) for record in records] == [_results(record) for record in whole]
    sweep, runs = sweeps.mlflow(name)
    assert [run.info.status for run in (sweep, *runs)] == ["FINISHED"] * (TRIALS + 1)
    assert [run.info.run_name[:5] for run in runs] == [f"{number:04d}-" for number in range(TRIALS)]
    assert all(
        run.data.metrics["score"] == shown(record["results"][-1]["score"])
        for run, record in zip(runs, records, strict=True)
    )
    assert len(pq.read_table(sweeps.folder / name / "tune" / "trials.parquet")) == TRIALS


def test_a_sweep_is_not_started_twice(sweeps: Sweeps, whole: list[dict[str, Any]]) -> None:
    on_ray = ("--set", "runtime.engine=deepspeed")
    sweeps.start("whole", KILLED, *on_ray).finish(code=2)
    assert "holds this sweep already: go on with --resume" in sweeps.said("whole")
    before = sweeps.records("whole")
    sweeps.start("whole", KILLED, *on_ray, "--resume").finish()
    assert "4 trials done before, kept" in sweeps.said("whole")
    assert sweeps.records("whole") == before == whole


def test_the_best_configuration_is_trained_in_full(sweeps: Sweeps, whole: list[dict[str, Any]]) -> None:
    best = max(whole, key=lambda record: record["results"][-1]["score"])
    file = str(sweeps.folder / "whole" / "tune" / "best.yaml")
    local = ("--config", file, "--set", "runtime.engine=local")
    assert "extract_embeddings" not in _job("pretrain_projector", *local)
    _job("meta_train", *local)
    config = (sweeps.folder / "whole" / "config.yaml").read_text()
    assert f"rank: {best['values']['hypernet.rank']}\n" in config and "validation: []" in config
    assert (sweeps.folder / "whole" / "meta_train" / "weights.safetensors").is_file()


def test_a_failed_trial_is_told_and_the_others_go_on(sweeps: Sweeps) -> None:
    sweeps.start("failing", FAILING).finish()
    records = sweeps.records("failing")
    failed = [record for record in records if record["values"].get("hypernet.rank") == 4096]
    assert len(records) == 6 and len(failed) == 2
    assert {record["state"] for record in failed} == {"failed"}
    assert {record["state"] for record in records if record not in failed} <= {"finished", "stopped"}
    for record in records:
        steps = {"failed": [], "stopped": [2.0], "finished": [2.0, 4.0]}[record["state"]]
        assert [result["steps"] for result in record["results"]] == steps
    said = sweeps.said("failing")
    assert said.count("\nwarning: trial 00") == 2 and "hypernet.rank=4096 is above the narrowest width" in said
    assert "Traceback" not in said
    sweep, runs = sweeps.mlflow("failing")
    assert sweep.info.status == "FINISHED"
    assert [run.info.status for run in runs] == [
        "FAILED" if record["state"] == "failed" else "FINISHED" for record in records
    ]


def test_a_trial_that_the_cluster_cannot_hold_is_one_error_before_anything_starts(sweeps: Sweeps) -> None:
    sweeps.start("large", KILLED, "--set", "runtime.cpus_per_worker=4096").finish(code=2)
    said = sweeps.said("large")
    assert said.startswith(
        "error: a trial needs 1 worker of 4096 CPU (and 0.01 CPU for its driver), and the Ray cluster"
    )
    assert said.count("\n") == 1
    assert not (sweeps.folder / "large").exists()


def test_a_tracking_server_that_does_not_answer_is_one_error_before_any_trial(sweeps: Sweeps) -> None:
    sweeps.start("untracked", KILLED, "--set", "tracking.uri=http://127.0.0.1:9").finish(code=2)
    said = sweeps.said("untracked").splitlines()
    assert [line.startswith("error: ") for line in said] == [False, True]
    assert said[0].startswith("4 trials, 2 at once") and "'http://127.0.0.1:9' does not answer" in said[1]
    assert not (sweeps.folder / "untracked" / "tune").exists()

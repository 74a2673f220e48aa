"""Submitted jobs on a head and two nodes, token authentication on; a node is lost in mid-training, one in mid-sweep.

Minutes long, hence only by `make nodes`.  The nodes are separate Ray nodes of this machine, so they share its files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.training.metrics_log import MetricsLog
from tests.ray_nodes import RayNodes

pytestmark = [pytest.mark.nodes, pytest.mark.slow, pytest.mark.timeout(3000)]

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60
KILL_AT = 12
WORKER, TRIAL_DRIVER = "RayTrainWorker", "ImplicitFunc"
"""Titles of Ray's processes."""
SETTINGS = {
    "runtime.engine": "deepspeed",
    "runtime.workers": 2,
    "runtime.placement": "spread",
    "meta.optim.steps": STEPS,
    "meta.checkpoint_every": 5,
}
TRIALS = 6
SPACE = f"""
metric: cider_d
validation: [audio]
samples: {TRIALS}
concurrent: 2
space:
  hypernet.rank: {{choice: [2, 4]}}
  meta.optim.learning_rate: {{loguniform: [1e-3, 1e-1]}}
"""
SWEEP_SETTINGS = {"runtime.engine": "deepspeed", "tracking.enabled": "true", "integrate.draws": 1}
Finished = subprocess.CompletedProcess[str]


def two_workers(nodes: RayNodes) -> None:
    """Also after a test that killed one."""
    while len(nodes.workers()) < 2:
        nodes.start_worker()


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with tempfile.TemporaryDirectory(prefix="sn-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = RayNodes(folder=Path(folder))
        try:
            cluster.start_head()
            two_workers(cluster)
            yield cluster
        finally:
            cluster.end()


@pytest.fixture(scope="module")
def storage(nodes: RayNodes) -> Path:
    """The folder that the nodes share, with what meta-training reads."""
    folder = nodes.folder / "shared"
    folder.mkdir()
    for job in ("prepare_miniature", "extract_embeddings", "pretrain_projector"):
        done = submitted(nodes, folder, job, "base")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "submitted " in done.stdout
    return folder


def command(nodes: RayNodes, storage: Path, job: str, name: str, settings: Mapping[str, Any] = SETTINGS) -> list[str]:
    chosen = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    start = [sys.executable, "-m", "jobs.submit", "--address", nodes.address, "--storage", str(storage)]
    return [*start, job, "--preset", "smoke", "--name", name, *chosen]


def submitted(nodes: RayNodes, storage: Path, job: str, name: str) -> Finished:
    return run(nodes, command(nodes, storage, job, name))


def run(nodes: RayNodes, words: list[str], token: str | None = None) -> Finished:
    environment = nodes.environment(token)
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


def inputs(storage: Path, name: str) -> None:
    for stage in ("embeddings", "pretrain_projector"):
        (storage / name).mkdir(exist_ok=True)
        subprocess.run(["cp", "-rl", storage / "base" / stage, storage / name / stage], check=True)


def result(storage: Path, name: str) -> tuple[bytes, list[float]]:
    folder = storage / name / "meta_train"
    records = MetricsLog(folder / "metrics.jsonl").read()
    assert [record["step"] for record in records] == list(range(STEPS))
    return (folder / "weights.safetensors").read_bytes(), [record["loss"] for record in records]


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job that is followed while something happens to it."""

    process: subprocess.Popen[bytes]
    log: Path

    def until(self, holds: Callable[[], bool], poll_s: float = 0.02) -> None:
        """Wait for a moment in mid-job."""
        limit = time.monotonic() + 900
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit, self.log.read_text()
            time.sleep(poll_s)

    def ends(self) -> None:
        """Well."""
        assert self.process.wait(900) == 0, self.log.read_text()


@contextmanager
def followed(nodes: RayNodes, words: list[str], name: str) -> Iterator[Submitted]:
    log = nodes.folder / f"{name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(words, cwd=ROOT, env=nodes.environment(), stdout=sink, stderr=subprocess.STDOUT)
    try:
        yield Submitted(process=process, log=log)
    finally:
        process.kill()


def test_a_lost_node_changes_nothing(nodes: RayNodes, storage: Path) -> None:
    inputs(storage, "alone")
    alone = submitted(nodes, storage, "meta_train", "alone")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    inputs(storage, "disturbed")
    metrics = storage / "disturbed" / "meta_train" / "metrics.jsonl"
    with followed(nodes, command(nodes, storage, "meta_train", "disturbed"), "disturbed") as job:
        job.until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= KILL_AT)
        assert all(nodes.hosts(node, WORKER) for node in nodes.workers()), "a worker on each node"
        nodes.kill(nodes.workers()[-1])
        assert metrics.read_bytes().count(b"\n") < STEPS, "killed too late to be missed"
        job.ends()
    assert result(storage, "disturbed") == result(storage, "alone")


def sweep(nodes: RayNodes, storage: Path, name: str) -> list[str]:
    """What is submitted; the space lies where the nodes see it."""
    (storage / "space.yaml").write_text(SPACE, encoding="utf-8")
    (storage / name).mkdir()
    subprocess.run(["cp", "-rl", storage / "base" / "embeddings", storage / name / "embeddings"], check=True)
    words = command(nodes, storage, "tune", name, SWEEP_SETTINGS)
    return [*words, "--space", str(storage / "space.yaml"), "--resume", "auto"]


def trials(storage: Path, name: str) -> list[dict[str, Any]]:
    files = sorted((storage / name / "tune" / "trials").glob("*/trial.json"))
    return [json.loads(file.read_text()) for file in files]


def scores(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (one["number"], one["state"], one["values"], [(at["steps"], at["score"]) for at in one["results"]])
        for one in records
    ]


def test_a_node_lost_in_mid_sweep_loses_and_repeats_no_trial(nodes: RayNodes, storage: Path) -> None:
    two_workers(nodes)
    undisturbed = run(nodes, sweep(nodes, storage, "sweep-alone"))
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    assert "cluster has 4 CPU and 0 GPU on 3 nodes" in undisturbed.stdout
    name = "sweep-disturbed"
    with followed(nodes, sweep(nodes, storage, name), name) as job:

        def in_the_middle() -> bool:
            states = [record["state"] for record in trials(storage, name)]
            return "finished" in states and "running" in states and len(states) < TRIALS and bool(victims())

        def victims() -> list[int]:
            return [node for node in nodes.workers() if nodes.hosts(node, TRIAL_DRIVER)]

        job.until(in_the_middle, poll_s=0.2)
        kept = {
            file: file.stat().st_mtime_ns
            for file in (storage / name / "tune" / "trials").glob("*/trial.json")
            if json.loads(file.read_text())["state"] == "finished"
        }
        nodes.kill(victims()[0])
        job.ends()
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, "what was done is not done again"
    records = trials(storage, name)
    assert [record["state"] for record in records] == ["finished"] * TRIALS
    assert scores(records) == scores(trials(storage, "sweep-alone"))
    assert tracked(storage, name) == ["FINISHED"] * (1 + TRIALS)


def test_a_trial_that_no_node_holds_is_told_before_anything_starts(nodes: RayNodes, storage: Path) -> None:
    done = run(nodes, [*sweep(nodes, storage, "sweep-large"), "--set", "runtime.cpus_per_worker=3"])
    assert done.returncode == 2, done.stdout + done.stderr
    assert (
        "error: a trial needs 1 worker of 3 CPU (and 0.01 CPU for its driver), and the Ray cluster has" in done.stdout
    )
    assert not (storage / "sweep-large" / "tune").exists()


def tracked(storage: Path, name: str) -> list[str]:
    """States of the MLflow runs of a sweep and its trials."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'semi'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [one for one in runs if one.info.run_name == name and one.data.tags["kind"] == "sweep"]
    below = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return [one.info.status for one in (parent, *(child for child in below if child.data.tags["kind"] == "trial"))]


def test_the_exit_code_and_the_message_are_the_jobs(nodes: RayNodes, storage: Path) -> None:
    done = submitted(nodes, storage, "meta_train", "nothing-there")
    assert done.returncode == 2
    assert "error: " in done.stdout


@pytest.mark.parametrize("action", [["list"], ["logs", "x"], ["stop", "x"], ["prepare_miniature", "--preset", "smoke"]])
def test_a_wrong_token_is_refused(nodes: RayNodes, action: list[str]) -> None:
    start = [sys.executable, "-m", "jobs.submit", "--address", nodes.address, "--storage", "/shared"]
    done = run(nodes, [*start, *action], token="0" * 64)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "refused this token, or the lack of one" in done.stderr


def test_no_token_is_refused(nodes: RayNodes, tmp_path: Path) -> None:
    environment = {key: value for key, value in nodes.environment().items() if not key.startswith("RAY_AUTH")}
    words = [sys.executable, "-m", "jobs.submit", "--address", nodes.address, "list"]
    done = subprocess.run(
        words, cwd=ROOT, env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "refused this token, or the lack of one" in done.stderr


def test_plain_ray_job_submit(nodes: RayNodes, storage: Path) -> None:
    job = ["python", "-m", "jobs.prepare_miniature", "--preset", "smoke", "--set", f"runs_dir={storage}"]
    start = ["ray", "job", "submit", "--address", nodes.address, "--working-dir", ".", "--", *job]
    done = run(nodes, [*start, "--name", "plain", "--set", f"miniature.data_dir={storage}/plain-data"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert (storage / "plain" / "prepare_miniature" / "stage.json").exists()


def test_jobs_are_listed_their_logs_shown_and_stopped(nodes: RayNodes, storage: Path) -> None:
    start = [sys.executable, "-m", "jobs.submit", "--address", nodes.address]
    words = command(nodes, storage, "prepare_miniature", "stopped")
    begun = run(nodes, [*words[:3], "--no-wait", *words[3:]])
    assert begun.returncode == 0, begun.stderr
    name = begun.stdout.split()[1]
    stopped = run(nodes, [*start, "stop", name])
    assert stopped.returncode == 0, stopped.stderr
    assert name in run(nodes, [*start, "list"]).stdout
    assert run(nodes, [*start, "logs", name]).returncode in (0, 143)
    unknown = run(nodes, [*start, "logs", "nobody"])
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "error: no job 'nobody'" in unknown.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="hiding a folder from a node needs root")
def test_a_folder_that_a_node_does_not_see_is_told_before_the_start(nodes: RayNodes, storage: Path) -> None:
    """The last test: the node stays."""
    nodes.start_worker(hidden=storage)
    (storage / "hidden").mkdir()
    done = submitted(nodes, storage, "extract_embeddings", "hidden")
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"error: {storage / 'hidden' / 'embeddings'} is not shared: node " in done.stdout

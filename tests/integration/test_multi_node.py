"""Submitted jobs on a head and two nodes, token authentication on; a node is lost in mid-training.

Minutes long, hence only by `make nodes`.  The nodes are separate Ray nodes of this machine, so they share its files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.training.metrics_log import MetricsLog
from tests.ray_nodes import RayNodes

pytestmark = [pytest.mark.nodes, pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60
KILL_AT = 12
WORKER = "RayTrainWorker"
SETTINGS = {
    "runtime.engine": "deepspeed",
    "runtime.workers": 2,
    "runtime.placement": "spread",
    "meta.optim.steps": STEPS,
    "meta.checkpoint_every": 5,
}
Finished = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with tempfile.TemporaryDirectory(prefix="sn-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = RayNodes(folder=Path(folder))
        try:
            cluster.start_head()
            cluster.start_worker()
            cluster.start_worker()
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


def command(nodes: RayNodes, storage: Path, job: str, name: str) -> list[str]:
    settings = [text for key, value in SETTINGS.items() for text in ("--set", f"{key}={value}")]
    start = [sys.executable, "-m", "jobs.submit", "--address", nodes.address, "--storage", str(storage)]
    return [*start, job, "--preset", "smoke", "--name", name, *settings]


def submitted(nodes: RayNodes, storage: Path, job: str, name: str) -> Finished:
    return run(nodes, command(nodes, storage, job, name))


def run(nodes: RayNodes, words: list[str], token: str | None = None) -> Finished:
    environment = nodes.environment(token)
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def inputs(storage: Path, name: str) -> None:
    for stage in ("embeddings", "pretrain_projector"):
        (storage / name).mkdir(exist_ok=True)
        subprocess.run(["cp", "-rl", storage / "base" / stage, storage / name / stage], check=True)


def result(storage: Path, name: str) -> tuple[bytes, list[float]]:
    folder = storage / name / "meta_train"
    records = MetricsLog(folder / "metrics.jsonl").read()
    assert [record["step"] for record in records] == list(range(STEPS))
    return (folder / "weights.safetensors").read_bytes(), [record["loss"] for record in records]


def test_a_lost_node_changes_nothing(nodes: RayNodes, storage: Path) -> None:
    inputs(storage, "alone")
    alone = submitted(nodes, storage, "meta_train", "alone")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    inputs(storage, "disturbed")
    log = nodes.folder / "disturbed.log"
    with log.open("wb") as sink:
        words = command(nodes, storage, "meta_train", "disturbed")
        job = subprocess.Popen(words, cwd=ROOT, env=nodes.environment(), stdout=sink, stderr=subprocess.STDOUT)
    try:
        metrics = storage / "disturbed" / "meta_train" / "metrics.jsonl"
        limit = time.monotonic() + 300
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < KILL_AT:
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.02)
        assert nodes.hosts(1, WORKER) and nodes.hosts(2, WORKER), "a worker on each node"
        nodes.kill(2)
        assert metrics.read_bytes().count(b"\n") < STEPS, "killed too late to be missed"
        assert job.wait(600) == 0, log.read_text()
    finally:
        job.kill()
    assert result(storage, "disturbed") == result(storage, "alone")


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

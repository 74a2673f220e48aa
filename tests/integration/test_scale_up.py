"""A cluster that has no node while nothing runs and adds them on demand, by Ray's own autoscaler.

Minutes long, hence only by `make nodes`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray_nodes import RayNodes

pytestmark = [pytest.mark.nodes, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
NAME = "grown"
SPACE = """
metric: cider_d
validation: [audio]
search: grid
concurrent: 2
space:
  hypernet.rank: {grid: [2, 4]}
"""


@pytest.fixture(scope="module")
def idle() -> Iterator[RayNodes]:
    with tempfile.TemporaryDirectory(prefix="su-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = RayNodes(folder=Path(folder))
        try:
            cluster.start_head(grows_by=1)
            yield cluster
        finally:
            cluster.end()


def run(cluster: RayNodes, job: str, *options: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "runs_dir": cluster.folder / "runs",
        "runtime.engine": "deepspeed",
        "runtime.address": f"127.0.0.1:{cluster.port}",
    }
    words = [sys.executable, "-m", f"jobs.{job}", "--preset", "smoke", "--name", NAME, *options]
    words += [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    return subprocess.run(words, cwd=ROOT, env=cluster.environment(), capture_output=True, text=True, timeout=600)


def test_an_idle_cluster_is_told_apart_from_one_that_grows(idle: RayNodes) -> None:
    assert run(idle, "prepare_miniature").returncode == 0
    refused = run(idle, "extract_embeddings")
    assert refused.returncode == 2 and "it has 0 CPU and 0 GPU" in refused.stderr
    assert refused.stderr.endswith("where the cluster adds nodes on demand, set runtime.scale_up_s\n")


def test_a_cluster_grows_for_what_is_wanted(idle: RayNodes) -> None:
    grow = ("--set", "runtime.scale_up_s=300")
    extracted = run(idle, "extract_embeddings", *grow)
    assert extracted.returncode == 0, extracted.stdout + extracted.stderr
    assert extracted.stderr == (
        "waiting for nodes: the Ray cluster has room for 0 of 3 processes, and 300 s (runtime.scale_up_s) to grow\n"
    )
    space = idle.folder / "space.yaml"
    space.write_text(SPACE, encoding="utf-8")
    tuned = run(idle, "tune", "--space", str(space), *grow)
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    assert "2 trials, 2 at once (all trials): each takes 1 worker of 0.9 CPU; the cluster has 2 CPU" in tuned.stdout
    records = [json.loads(path.read_text()) for path in (idle.folder / "runs").glob("*/tune/trials/*/trial.json")]
    assert [record["state"] for record in records] == ["finished"] * 2

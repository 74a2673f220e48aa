"""Meta-training that is killed at random steps ends in the weights of a run that was left alone, bit for bit.

Minutes long, hence only by `make chaos`.  Two DeepSpeed workers on Ray.  Ten runs lose a training worker to SIGKILL and
must end well by themselves; five lose their driver and are started once more, every other one beside what Ray has not
ended yet; one more goes on with one worker.  Steps are drawn one from each tenth (fifth) of the run.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import Driver, start_driver

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 20250904
STEPS, EVERY = 200, 10
WORKER_KILLS, DRIVER_KILLS = 10, 5
WORKER = "RayTrainWorker"
# A step takes some ten milliseconds; looking for children takes as long.
LOG_POLL_S = 0.02


@dataclass(kw_only=True)
class Project:
    """One set of embeddings and one pre-trained projector; a copy of both for each run."""

    runs: Path
    weights: bytes = b""
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    killed: list[str] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    drivers: list[Driver] = field(default_factory=list)

    def start(self, job: str, name: str, *options: str) -> Driver:
        """A job whose outputs go to `<runs>/<name>`."""
        settings = (f"runs_dir={self.runs}", f"meta.optim.steps={STEPS}", f"meta.checkpoint_every={EVERY}", *options)
        pairs = [part for setting in settings for part in ("--set", setting)]
        arguments = ["--preset", "smoke", "--name", name, *pairs]
        self.drivers.append(start_driver(job, arguments, log=self.runs / f"{name}.log", marker=self.runs))
        return self.drivers[-1]

    def train(self, name: str, *, workers: int = 2) -> Driver:
        """Meta-training on Ray, on a copy of the embeddings and the projector of all."""
        for part in ("embeddings", "pretrain_projector"):
            if not (self.runs / name / part).exists():
                shutil.copytree(self.runs / "base" / part, self.runs / name / part)
        return self.start("meta_train", name, "runtime.engine=deepspeed", f"runtime.workers={workers}")

    def train_until(self, name: str, step: int) -> Driver:
        """Meta-training that has logged `step`, and goes on."""
        driver = self.train(name)
        ended = driver.wait(stop=lambda: self.logged(name) > step, poll_s=LOG_POLL_S)
        assert not ended, f"ended before step {step} was seen:\n{driver.log.read_text()}"
        return driver

    def logged(self, name: str) -> int:
        log = self.runs / name / "meta_train" / "metrics.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def records(self, name: str) -> list[dict[str, Any]]:
        text = (self.runs / name / "meta_train" / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def result(self, name: str) -> bytes:
        return (self.runs / name / "meta_train" / "weights.safetensors").read_bytes()

    def check(self, name: str) -> None:
        """The weights of the run that was left alone, and each step's loss once."""
        records = self.records(name)
        assert [record["step"] for record in records] == list(range(STEPS))
        assert [record["loss"] for record in records] == self.losses
        assert self.result(name) == self.weights


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    began = time.monotonic()
    project = Project(runs=tmp_path_factory.mktemp("chaos-training"))
    try:
        for job in ("prepare_miniature", "extract_embeddings", "pretrain_projector"):
            project.start(job, "base").finish()
        driver = project.train("alone")
        driver.wait()
        project.seconds = driver.seconds()
        driver.finish()
        project.weights = project.result("alone")
        project.losses = [record["loss"] for record in project.records("alone")]
        assert len(project.losses) == STEPS and len(set(project.losses)) > STEPS // 2
        yield project
    finally:
        for driver in project.drivers:
            driver.end()
    print(
        f"\nchaos: {STEPS} steps of meta-training, a checkpoint every {EVERY}; {project.killed.count('worker')} workers"
        f" and {project.killed.count('driver')} drivers killed; steps kept after a driver's death: "
        f"{', '.join(map(str, project.kept))}; left alone {project.seconds:.0f} s, all {time.monotonic() - began:.0f} s"
    )


def _step(stream: str, kill: int, kills: int) -> int:
    """A step from the `kill`-th part of the run, its last tenth left out: it must not end before it is hit."""
    share = (kill + random.Random(f"{SEED} {stream} {kill}").random()) / kills
    return int(0.9 * STEPS * share)


def _kill_driver(project: Project, name: str, step: int) -> None:
    project.train_until(name, step).kill()
    project.killed.append("driver")


def _started(project: Project, name: str) -> dict[int, float]:
    return {record["step"]: record["time_s"] for record in project.records(name)}


@pytest.mark.parametrize("kill", range(WORKER_KILLS))
def test_a_killed_worker_costs_no_bit(project: Project, kill: int) -> None:
    name = f"worker-{kill}"
    driver = project.train_until(name, _step("worker", kill, WORKER_KILLS))
    workers = driver.descendants(WORKER)
    assert len(workers) == 2, "ended before a worker could be killed"
    victim = random.Random(f"{SEED} victim {kill}").choice(workers)
    victim.kill()
    assert project.logged(name) < STEPS, "the last step was over before the kill"
    project.killed.append("worker")
    driver.finish()
    project.check(name)


@pytest.mark.parametrize("kill", range(DRIVER_KILLS))
def test_a_killed_driver_costs_no_bit(project: Project, kill: int) -> None:
    name = f"driver-{kill}"
    _kill_driver(project, name, _step("driver", kill, DRIVER_KILLS))
    if kill % 2:  # else the rerun begins beside what Ray has not ended yet
        project.drivers[-1].wait_until_gone()
    before = _started(project, name)
    project.train(name).finish()
    project.check(name)
    after = _started(project, name)
    project.kept.append(sum(after[step] == time_s for step, time_s in before.items()))


def test_one_worker_goes_on_with_the_episodes_of_two(project: Project) -> None:
    name = "fewer"
    _kill_driver(project, name, STEPS // 2)
    project.drivers[-1].wait_until_gone()
    before = _started(project, name)
    project.train(name, workers=1).finish()
    records = project.records(name)
    assert [record["step"] for record in records] == list(range(STEPS))
    assert [record["loss"] for record in records] == pytest.approx(project.losses, abs=1e-5)
    assert any(record["time_s"] == before.get(record["step"]) for record in records), "trained anew"


def test_checkpoints_were_used_and_nothing_is_unfinished(project: Project) -> None:
    assert project.killed == ["worker"] * WORKER_KILLS + ["driver"] * (DRIVER_KILLS + 1)
    assert all(kept >= EVERY for kept in project.kept[1:])  # the first may die before its first checkpoint
    for run in (path for path in project.runs.iterdir() if (path / "meta_train").is_dir()):
        names = sorted(path.name for path in (run / "meta_train" / "checkpoints").iterdir())
        assert names == [f"step-{STEPS - EVERY:08d}", f"step-{STEPS:08d}"], run.name

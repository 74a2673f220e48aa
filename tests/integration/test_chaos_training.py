"""Meta-training that is killed at fifteen random steps ends with the weights of a run that was left alone, bit for bit.

Minutes long, hence only by `make chaos`.  Ten runs lose a training worker to SIGKILL and must end by themselves; five
lose their driver and are started once more; one more goes on with a single worker.  Steps are drawn one from each tenth
(fifth) of the run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.session import TEMP_PREFIX
from tests.drivers import Driver, carries_marker
from tests.smoke_runs import WORKER, SmokeRuns, on_ray

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 20250904
STEPS = 160
CHECKPOINT_EVERY = 10
WORKER_KILLS, DRIVER_KILLS = 10, 5
TWO_WORKERS = on_ray(2)


@dataclass(kw_only=True)
class Reference:
    """The run that was left alone, and what became of the others."""

    runs: SmokeRuns
    weights: bytes
    losses: list[float]
    seconds: float
    killed: list[str] = field(default_factory=list)
    redone: list[int] = field(default_factory=list)
    """Steps between the checkpoint that a killed driver left and the step it was killed at."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    began = time.monotonic()
    folder = tmp_path_factory.mktemp("chaos-training")
    runs = SmokeRuns(folder=folder, steps=STEPS, checkpoint_every=CHECKPOINT_EVERY)
    try:
        runs.prepare()
        driver = runs.start("alone", *TWO_WORKERS)
        assert driver.wait()
        seconds = driver.seconds()
        driver.finish()
        reference = Reference(runs=runs, weights=runs.weights("alone"), losses=runs.losses("alone"), seconds=seconds)
        yield reference
    finally:
        runs.end()
    print(
        f"\nchaos: {STEPS} steps, a checkpoint each {CHECKPOINT_EVERY}; {reference.killed.count('worker')} workers and "
        f"{reference.killed.count('driver')} drivers killed; steps done again after a driver's death: "
        f"{sum(reference.redone)} ({', '.join(map(str, reference.redone))}); left alone {reference.seconds:.0f} s, "
        f"all {time.monotonic() - began:.0f} s"
    )


def _step(stream: str, kill: int, kills: int) -> int:
    """A step of the `kill`-th part of the run, but neither its first nor its last few."""
    share = (kill + random.Random(f"{SEED} {stream} {kill}").random()) / kills
    return 1 + int(share * (STEPS - 12))


def _wait_for_step(runs: SmokeRuns, driver: Driver, name: str, step: int) -> None:
    ended = driver.wait(stop=lambda: runs.steps_done(name) >= step, poll_s=0.01)
    assert not ended, runs.said(name)


@pytest.mark.parametrize("kill", range(WORKER_KILLS))
def test_a_killed_worker_costs_steps_and_nothing_else(reference: Reference, kill: int) -> None:
    runs, name = reference.runs, f"worker-{kill}"
    driver = runs.start(name, *TWO_WORKERS)
    _wait_for_step(runs, driver, name, _step("worker", kill, WORKER_KILLS))
    workers = driver.descendants(WORKER)
    assert len(workers) == 2
    random.Random(f"{SEED} victim {kill}").choice(workers).kill()
    assert runs.steps_done(name) < STEPS, "killed too late to be missed"
    driver.finish()
    reference.killed.append("worker")
    assert runs.weights(name) == reference.weights
    assert runs.losses(name) == reference.losses


@pytest.mark.parametrize("kill", range(DRIVER_KILLS))
def test_a_killed_driver_is_started_again(reference: Reference, kill: int) -> None:
    runs, name = reference.runs, f"driver-{kill}"
    _kill_driver(reference, name, _step("driver", kill, DRIVER_KILLS))
    runs.start(name, *TWO_WORKERS).finish()
    assert runs.weights(name) == reference.weights
    assert runs.losses(name) == reference.losses


def test_another_number_of_workers_continues_the_same_order(reference: Reference) -> None:
    """Sums of another order round differently, so the losses are close and not the same."""
    runs, name = reference.runs, "fewer"
    _kill_driver(reference, name, STEPS // 3)
    runs.start(name, *on_ray(1)).finish()
    assert runs.losses(name) == pytest.approx(reference.losses, abs=1e-5)


def _kill_driver(reference: Reference, name: str, step: int) -> None:
    runs = reference.runs
    driver = runs.start(name, *TWO_WORKERS)
    _wait_for_step(runs, driver, name, step)
    driver.kill()
    assert not (runs.folder / name / "meta_train" / "weights.safetensors").exists(), "killed too late to be missed"
    reference.killed.append("driver")
    reference.redone.append(runs.steps_done(name) - max([0, *runs.checkpoints(name)]))


def test_nothing_is_left_over(reference: Reference) -> None:
    runs = reference.runs
    assert reference.killed == ["worker"] * WORKER_KILLS + ["driver"] * (DRIVER_KILLS + 1)
    for driver in runs.drivers:
        driver.wait_until_gone()
    pids = {str(driver.process.pid) for driver in runs.drivers}
    assert not [path for path in Path("/tmp").glob(f"{TEMP_PREFIX}*") if path.name.split("-")[2] in pids]
    assert not [process for process in psutil.process_iter() if carries_marker(process, runs.folder)]

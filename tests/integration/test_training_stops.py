"""SIGTERM saves and ends, the same command continues to the same bits; divergence ends; `--resume never` forgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.smoke_runs import SmokeRuns, on_ray

STEPS = 60
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmokeRuns]:
    # No checkpoint but the one that SIGTERM brings about.
    runs = SmokeRuns(folder=tmp_path_factory.mktemp("stops"), steps=STEPS, checkpoint_every=STEPS)
    try:
        runs.prepare()
        yield runs
    finally:
        runs.end()


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_saves_and_the_same_command_continues(runs: SmokeRuns, workers: int) -> None:
    options = on_ray(workers) if workers else ()
    tracked = ("--set", "tracking.enabled=true")
    whole, cut = f"whole-{workers}", f"cut-{workers}"
    runs.start(whole, *options).finish()
    driver = runs.start(cut, *options, *tracked)
    assert not driver.wait(stop=lambda: runs.steps_done(cut) >= 7, poll_s=0.005), runs.said(cut)
    driver.process.terminate()
    driver.finish(code=143)
    (stopped,) = runs.checkpoints(cut)
    assert 7 <= stopped < STEPS
    line = f"terminated: meta_train stopped after {stopped} of {STEPS} updates; the same command continues there"
    assert runs.said(cut).strip() == line
    assert _mlflow_states(runs.folder) == {"KILLED"}
    driver = runs.start(cut, *options)
    driver.finish()
    assert runs.weights(cut) == runs.weights(whole)
    assert runs.losses(cut) == runs.losses(whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_divergence_is_one_line_and_exit_code_2(runs: SmokeRuns, workers: int) -> None:
    """The slots at fault are named, those of both workers; nothing is tried again."""
    name, every = f"diverged-{workers}", ("--set", "meta.checkpoint_every=1")
    options = (*(on_ray(workers) if workers else ()), *every, "--set", "meta.optim.learning_rate=1e30")
    runs.start(name, *options).finish(code=2)
    said = runs.said(name)
    assert said.count("\n") == 1 and said.startswith("error: step 1: loss nan, gradient norm "), said
    for slot in (0, 1):
        assert f"step 1, slot {slot} (modality '" in said
    assert said.count("isometry seed ") == 2
    assert runs.steps_done(name) == 1 and runs.checkpoints(name) == [1]


def test_damaged_checkpoint_is_told_and_the_one_before_continues(runs: SmokeRuns) -> None:
    every = ("--set", "meta.checkpoint_every=10")
    runs.start("intact", *every).finish()
    runs.start("damaged", *every).finish()
    stage = runs.folder / "damaged" / "meta_train"
    newest = stage / "checkpoints" / f"step-{STEPS:08d}"
    state = newest / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    (stage / "stage.json").unlink()
    (stage / "weights.safetensors").unlink()
    runs.start("damaged", *every).finish()
    warnings = [line for line in runs.said("damaged").splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and warnings[0].startswith(f"warning: checkpoint {newest} is damaged (")
    assert "Traceback" not in runs.said("damaged")
    assert runs.weights("damaged") == runs.weights("intact")


def test_resume_never_forgets_a_finished_result(runs: SmokeRuns) -> None:
    name = "anew"
    runs.start(name).finish()
    before = runs.weights(name)
    stage = runs.folder / name / "meta_train"
    first = (stage / "metrics.jsonl").stat().st_ino
    runs.start(name).finish()
    assert "done before, kept" in runs.said(name)
    assert (stage / "metrics.jsonl").stat().st_ino == first
    times = [json.loads(line)["time_s"] for line in (stage / "metrics.jsonl").read_text().splitlines()]
    runs.start(name, "--resume", "never").finish()
    again = [json.loads(line)["time_s"] for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert len(again) == STEPS and min(again) > max(times), "every step was done again"
    assert runs.weights(name) == before


def _mlflow_states(folder: Path) -> set[str]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'semi'")
    return {run.info.status for run in client.search_runs([experiment.experiment_id])}

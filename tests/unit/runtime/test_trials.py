"""A trial of a method's tuning: what is scored, what is kept, and how it is lost without ending the search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.adaptation.finetune import DivergedError
from pipeline.adaptation.tuning import Outcome, trials
from pipeline.config.presets import build_preset
from pipeline.config.schema import ExperimentConfig
from pipeline.runtime import trials as module
from pipeline.runtime.fanout import fan_out
from pipeline.runtime.trials import TrialTask, run_trial

SMOKE = build_preset("smoke")
Score = Callable[[Any], list[Any]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[ExperimentConfig]:
    """Configurations that trials took their cells from; every one has the cells 0 and 1."""
    configs: list[ExperimentConfig] = []

    def cells(config: ExperimentConfig, *_: Any) -> list[int]:
        configs.append(config)
        return [0, 1]

    monkeypatch.setattr(module, "method_cells", cells)
    return configs


def task(run_dir: Path, number: int = 0, *, identity: str = "inputs") -> TrialTask:
    return TrialTask(
        config=SMOKE, root=run_dir, run_dir=run_dir, identity=identity, trial=trials("scratch", 3, 0)[number]
    )


def scores(values: dict[str, tuple[float | None, float]]) -> Score:
    """One result a modality, with attribute accuracy and CIDEr-D."""
    rows = [SimpleNamespace(dataset=name, attribute_accuracy=a, cider_d=c) for name, (a, c) in values.items()]
    return lambda cell: rows if cell == 0 else []


def raises(error: Exception) -> Score:
    def score(_: Any) -> list[Any]:
        raise error

    return score


def test_the_method_is_scored_alone_on_validation_with_the_trials_settings(
    tmp_path: Path, seen: list[ExperimentConfig]
) -> None:
    outcome = run_trial(task(tmp_path), scores({"speech": (0.25, 9.0), "image": (0.75, 1.0)}))
    (config,) = seen
    assert (config.evaluate.on, config.evaluate.methods) == ("validation", ("scratch",))
    settings = task(tmp_path).trial.overrides
    assert {name: getattr(config.evaluate.scratch, name.rpartition(".")[2]) for name in settings} == settings
    assert outcome == Outcome(score=0.5)


def test_cider_scores_where_a_modality_has_no_attributes(tmp_path: Path, seen: list[ExperimentConfig]) -> None:
    assert run_trial(task(tmp_path), scores({"speech": (0.25, 3.0), "image": (None, 1.0)})).score == 2.0


def test_a_finished_trial_is_kept_for_the_same_inputs_and_settings(
    tmp_path: Path, seen: list[ExperimentConfig]
) -> None:
    first = run_trial(task(tmp_path), scores({"speech": (0.25, 0.0)}))
    again = raises(AssertionError("a finished trial was repeated"))
    assert run_trial(task(tmp_path), again) == first
    assert run_trial(task(tmp_path, identity="others"), scores({"speech": (0.5, 0.0)})).score == 0.5


def test_a_divergence_is_lost_with_its_reason_and_kept(tmp_path: Path, seen: list[ExperimentConfig]) -> None:
    reason = "fine-tuning on 'speech' diverged at step 3"
    lost = run_trial(task(tmp_path), raises(DivergedError(reason)))
    assert lost == Outcome(error=reason)
    assert run_trial(task(tmp_path), scores({"speech": (1.0, 0.0)})) == lost


def test_another_error_is_lost_too_and_tried_again_by_the_next_call(
    tmp_path: Path, seen: list[ExperimentConfig]
) -> None:
    assert run_trial(task(tmp_path), raises(RuntimeError("no\nmemory"))) == Outcome(error="RuntimeError: no memory")
    assert run_trial(task(tmp_path), scores({"speech": (1.0, 0.0)})).score == 1.0


def test_what_every_trial_would_meet_ends_the_search(tmp_path: Path, seen: list[ExperimentConfig]) -> None:
    with pytest.raises(FileNotFoundError, match="weights are missing"):
        run_trial(task(tmp_path), raises(FileNotFoundError("weights are missing")))


def test_the_others_go_on(tmp_path: Path, seen: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def work(one: TrialTask) -> Outcome:
        bad = one.trial.number == 1
        return run_trial(one, raises(DivergedError("it diverged")) if bad else scores({"speech": (0.5, 0.0)}))

    ended: dict[int, Outcome] = {}
    fan_out(
        work,
        [task(tmp_path, number) for number in range(3)],
        runtime=SMOKE.runtime,
        root=tmp_path,
        on_done=lambda one, outcome: ended.update({one.trial.number: outcome}),
    )
    assert [ended[number].score for number in range(3)] == [0.5, None, 0.5]

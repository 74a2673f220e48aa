"""Every method is searched by the same points, in legal ranges, and never without validation modalities."""

from __future__ import annotations

import pytest

from pipeline.adaptation.tuning import TUNED, Outcome, best_trial, require_validation, trials
from pipeline.config.load import override
from pipeline.config.presets import build_preset


def test_every_method_gets_the_same_number_of_the_same_points() -> None:
    points = [[list(trial.overrides.values()) for trial in trials(method, 12, 3)] for method in TUNED]
    assert all(values == points[0] and len(values) == 12 for values in points)
    assert len({str(values) for values in points[0]}) == 12
    assert trials("semi", 12, 4) != trials("semi", 12, 3)
    assert trials("semi", 5, 3) == trials("semi", 12, 3)[:5]


@pytest.mark.parametrize("method", list(TUNED))
def test_every_point_is_a_legal_configuration(method: str) -> None:
    smoke = build_preset("smoke")
    for trial in trials(method, 12, 0):  # type: ignore[arg-type]
        assert override(smoke, trial.overrides) != smoke


def test_the_best_trial_is_the_first_of_equals() -> None:
    first, second, third = trials("scratch", 3, 0)
    scored = [(first, Outcome(score=0.1)), (third, Outcome(score=0.5)), (second, Outcome(score=0.5))]
    assert best_trial(scored) == second


def test_a_lost_trial_never_wins() -> None:
    first, second, _ = trials("scratch", 3, 0)
    lost = (first, Outcome(error="diverged"))
    assert best_trial([lost, (second, Outcome(score=0.0))]) == second
    assert best_trial([lost]) is None


def test_no_validation_modality_is_refused() -> None:
    smoke = build_preset("smoke")
    with pytest.raises(ValueError, match=r"validation is empty.*--set validation='\[\"speech\"\]'"):
        require_validation(smoke)
    require_validation(override(smoke, {"validation": ["audio"]}))

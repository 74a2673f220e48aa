"""Pairs that a baseline needs to equal a method."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.results import Result
from pipeline.evaluation.shots_to_match import Match, first_crossing, shots_to_match
from pipeline.evaluation.summary import IntervalSettings
from tests.unit.evaluation.curves import make_curves

QUICK = IntervalSettings(resamples=300)
LADDER: dict[int | None, float] = {4: 0.1, 8: 0.2, 16: 0.3, 32: 0.4, 64: 0.5, 128: 0.6}


def match(results: list[Result], method: str = "ours", baseline: str = "theirs", shots: int = 32) -> Match:
    found = {(m.method, m.baseline): m for m in shots_to_match(results, shots=shots, settings=QUICK)}
    return found[method, baseline]


@pytest.mark.parametrize("size", sorted(size for size in LADDER if size))
@pytest.mark.parametrize("rescale", [lambda s: s, lambda s: s**3, math.exp, lambda s: 10 * s - 7])
def test_a_score_of_the_curve_needs_the_pairs_it_was_measured_at(size: int, rescale: Callable[[float], float]) -> None:
    theirs = {shots: rescale(score) for shots, score in LADDER.items()}
    found = match(make_curves({"ours": {32: theirs[size]}, "theirs": theirs}))
    assert (found.pairs, found.low, found.high) == pytest.approx((size, size, size))
    assert found.target == pytest.approx(theirs[size])


@pytest.mark.parametrize(("target", "pairs"), [(0.45, 2**5.5), (0.425, 2**5.25), (0.11, 2**2.1)])
def test_between_two_sizes_the_curve_is_straight_in_the_logarithm(target: float, pairs: float) -> None:
    assert match(make_curves({"ours": {32: target}, "theirs": LADDER})).pairs == pytest.approx(pairs)


def test_the_first_crossing_counts_though_the_curve_falls_again() -> None:
    wave = {4: 0.1, 8: 0.5, 16: 0.2, 32: 0.6}
    assert match(make_curves({"ours": {32: 0.3}, "theirs": wave})).pairs == pytest.approx(2**2.5)


def test_full_lies_at_the_mean_number_of_pairs() -> None:
    theirs = {4: 0.1, 8: 0.2, None: 0.8}
    found = match(make_curves({"ours": {32: 0.8}, "theirs": theirs}))
    assert (found.pairs, found.most) == pytest.approx((3000, 3000))
    between = match(make_curves({"ours": {32: 0.5}, "theirs": theirs}))
    assert between.pairs == pytest.approx(math.sqrt(8 * 3000))


def test_values_outside_the_curve_stay_censored() -> None:
    above = match(make_curves({"ours": {32: 0.9}, "theirs": LADDER}))
    below = match(make_curves({"ours": {32: 0.05}, "theirs": LADDER}))
    assert (above.pairs, above.low, above.high) == (math.inf,) * 3
    assert (below.pairs, below.low, below.high) == (-math.inf,) * 3
    assert (above.text(above.pairs), below.text(below.low)) == ("> 128", "< 4")
    assert (above.text(5.26), above.text(64.4)) == ("5.3", "64")


@pytest.mark.parametrize(("target", "censored"), [(0.595, "high"), (0.105, "low")])
def test_one_end_of_an_interval_can_be_censored(target: float, censored: str) -> None:
    found = match(make_curves({"ours": {32: target}, "theirs": LADDER}, noise=0.1))
    assert math.isinf(getattr(found, censored))
    assert math.isfinite(found.high if censored == "low" else found.low)
    assert not math.isnan(found.pairs)


def test_a_method_against_its_double_needs_as_many_pairs_in_every_resample() -> None:
    results = make_curves({"ours": LADDER}, noise=0.02)
    double = [replace(result, method="theirs") for result in results]
    for shots in (16, 32, 64):
        found = match(results + double, shots=shots)
        assert (found.pairs, found.low, found.high) == pytest.approx((shots, shots, shots))


def test_the_interval_covers_a_curve_that_is_as_good() -> None:
    found = match(make_curves({"ours": LADDER, "theirs": LADDER}, noise=0.1))
    assert found.low < 32 < found.high
    assert found.low <= found.pairs <= found.high


def test_a_curve_needs_two_sizes_of_all_datasets_that_both_have() -> None:
    results = make_curves({"ours": LADDER, "control": {32: 0.2}, "theirs": LADDER})
    pairs = {(found.method, found.baseline) for found in shots_to_match(results, settings=QUICK)}
    assert pairs == {("ours", "theirs"), ("theirs", "ours"), ("control", "ours"), ("control", "theirs")}
    # 128 pairs were too many for one dataset: the mean curve ends at 64.
    short = [result for result in results if not (result.dataset == "imu" and result.shots == 128)]
    assert match(short).most == 64


def test_further_encoders_at_one_size_do_not_move_the_curve() -> None:
    results = make_curves({"ours": {32: 0.4}, "theirs": LADDER})
    worse = make_curves({"ours": {32: 0.1}, "theirs": {32: 0.1}}, encoders=("b",))
    assert match(results + worse) == match(results)


def test_without_attributes_cider_is_matched() -> None:
    found = match(make_curves({"ours": {32: 0.45}, "theirs": LADDER}, attributes=False))
    assert (found.metric, found.pairs, found.target) == ("cider_d", pytest.approx(2**5.5), pytest.approx(45.0))


def test_a_size_nobody_was_scored_at_is_refused() -> None:
    with pytest.raises(ValueError, match="no method was scored at 7 shots"):
        shots_to_match(make_curves({"ours": LADDER}), shots=7)


def test_encoders_with_gaps_only_are_refused() -> None:
    results = make_curves({"ours": {32: 0.4}}, encoders=("a",)) + make_curves({"ours": {64: 0.4}}, encoders=("b",))
    with pytest.raises(ValueError, match="imu, satellite: no encoder was scored at every support size"):
        shots_to_match(results)


def test_crossings_agree_with_a_search_on_a_fine_grid() -> None:
    rng = np.random.default_rng(0)
    logs, scores, targets = np.array([2.0, 3.0, 5.0, 9.0]), rng.random((4, 200)), rng.random(200)
    grid = np.linspace(2.0, 9.0, 70_001)
    found = first_crossing(logs, scores, targets)
    for column, target in enumerate(targets):
        reached = np.flatnonzero(np.interp(grid, logs, scores[:, column]) >= target)
        if len(reached) == 0:
            assert found[column] == math.inf
        elif scores[0, column] > target:
            assert found[column] == -math.inf
        else:
            assert found[column] == pytest.approx(grid[reached[0]], abs=2e-4)

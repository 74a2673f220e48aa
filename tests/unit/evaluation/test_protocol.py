"""Support draws, test rows and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.protocol import (
    Estimate,
    bootstrap_interval,
    draw_support,
    paired_difference,
    test_rows,
)

ROWS = np.arange(100, 400, dtype=np.int64)


@given(st.integers(1, 299), st.integers(0, 2**32), st.integers(0, 50))
def test_draws_are_nested_distinct_and_from_the_rows(shots: int, seed: int, draw: int) -> None:
    smaller, larger = (draw_support(ROWS, size, seed, draw) for size in (shots, shots + 1))
    assert np.array_equal(smaller, larger[:shots])
    assert len(set(smaller.tolist())) == shots
    assert set(smaller.tolist()) <= set(ROWS.tolist())


def test_draws_depend_on_seed_and_number_but_not_on_the_order_of_the_rows() -> None:
    base = draw_support(ROWS, 32, 0, 0)
    assert np.array_equal(base, draw_support(ROWS[::-1], 32, 0, 0))
    for seed, draw in ((0, 1), (1, 0)):
        assert len(np.intersect1d(base, draw_support(ROWS, 32, seed, draw))) < 16


def test_draws_are_the_same_on_every_machine() -> None:
    # Stored once: another version of numpy must not change published supports unseen.
    assert draw_support(ROWS, 5, 7, 2).tolist() == [212, 172, 311, 276, 197]
    assert test_rows(ROWS, 5, 7).tolist() == [198, 388, 108, 178, 127]


def test_more_shots_than_rows_names_dataset_shots_and_rows() -> None:
    with pytest.raises(ValueError, match="satellite: 301 shots asked for, but its train split has 300 rows"):
        draw_support(ROWS, 301, 0, 0, dataset="satellite")
    with pytest.raises(ValueError, match="0 shots"):
        draw_support(ROWS, 0, 0, 0)


def test_repeated_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct, got 3 with 1 repeated"):
        draw_support(np.array([1, 1, 2]), 2, 0, 0)


def test_test_rows_are_a_seeded_prefix_and_all_where_there_are_fewer() -> None:
    few = test_rows(ROWS, 20, 0)
    assert np.array_equal(few, test_rows(ROWS, 40, 0)[:20])
    assert not np.array_equal(few, np.sort(few))
    assert sorted(test_rows(ROWS, 1000, 0)) == ROWS.tolist()
    with pytest.raises(ValueError, match="imu: the test split has no rows"):
        test_rows(ROWS[:0], 10, 0, dataset="imu")


def interval(scores: np.ndarray | list[np.ndarray], seed: int = 0) -> Estimate:
    return bootstrap_interval(scores, resamples=2000, confidence=0.95, seed=seed)


def test_a_constant_has_an_interval_without_width() -> None:
    estimate = interval(np.full((3, 50), 0.25))
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.25, 0.25, 0.25))


def test_one_draw_gives_the_usual_interval_of_a_mean() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 400))
    estimate = interval(scores)
    half = 1.96 * scores.std(ddof=1) / 20
    assert estimate.mean == pytest.approx(scores.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.06)


def test_draws_widen_the_interval_even_where_samples_agree() -> None:
    scores = np.repeat([[0.5], [0.6], [0.7]], 100, axis=1)
    estimate = interval(scores)
    assert (estimate.low, estimate.high) == pytest.approx((0.5, 0.7))


def test_few_draws_do_not_look_surer_than_they_are() -> None:
    # Of two draws one is drawn: means 0 and 1, half each.  Two of two would put half of the weight on 0.5.
    scores = np.repeat([[0.0], [1.0]], 10, axis=1)
    estimate = bootstrap_interval(scores, resamples=2000, confidence=0.4)
    assert (estimate.low, estimate.high) == pytest.approx((0.0, 1.0))


def test_interval_covers_the_truth_with_three_draws() -> None:
    rng = np.random.default_rng(1)

    def covered() -> bool:
        draws, samples = rng.normal(scale=0.03, size=(3, 1)), rng.normal(scale=0.15, size=(1, 200))
        estimate = bootstrap_interval(
            0.7 + draws + samples + rng.normal(scale=0.15, size=(3, 200)), resamples=500, confidence=0.95
        )
        return estimate.low <= 0.7 <= estimate.high

    # 0.92 over 400 repetitions of 1,000 resamples.
    assert sum(covered() for _ in range(300)) / 300 >= 0.88


def test_samples_are_shared_by_draws() -> None:
    # Three draws of the same scores tell no more about the samples than one draw does.
    scores = np.random.default_rng(0).random((1, 100))
    once, thrice = interval(scores), interval(np.repeat(scores, 3, axis=0))
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.1)


def test_a_mean_over_modalities_weighs_them_equally() -> None:
    estimate = interval([np.zeros((3, 10)), np.ones((2, 1000))])
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.5, 0.5, 0.5))


def test_modalities_are_resampled_independently() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random((3, 100)), rng.random((3, 100))
    single, both = interval(one), interval([one, other])
    assert both.high - both.low == pytest.approx((single.high - single.low) / np.sqrt(2), rel=0.2)


def test_intervals_are_reproducible_and_depend_on_the_seed() -> None:
    scores = np.random.default_rng(0).random((3, 40))
    assert interval(scores) == interval(scores)
    assert interval(scores) != interval(scores, seed=1)


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.normal(size=(1, 200))
    ours, theirs = (
        hardness + 0.1 + rng.normal(scale=0.1, size=(3, 200)),
        hardness + rng.normal(scale=0.1, size=(3, 200)),
    )
    difference = paired_difference([ours], [theirs], resamples=2000, confidence=0.95)
    assert 0.0 < difference.low < 0.1 < difference.high
    assert interval(ours).low < interval(theirs).high


def test_unpaired_shapes_and_bad_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equal shapes, got \[\(2, 3\)\] and \[\(3, 3\)\]"):
        paired_difference([np.zeros((2, 3))], [np.zeros((3, 3))], resamples=10, confidence=0.9)
    with pytest.raises(ValueError, match="finite"):
        interval(np.array([[np.nan]]))
    with pytest.raises(ValueError, match=r"\[draws, samples\], none empty"):
        interval(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"\[draws, samples\], none empty"):
        interval([])

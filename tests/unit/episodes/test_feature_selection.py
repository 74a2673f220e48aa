"""Infinite Feature Selection against its definition, written out with SciPy and a matrix inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.episodes.feature_selection import select_features


def _scores(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Every edge on its own, the spectral radius from all eigenvalues, the paths' sum from the inverse."""
    features = x.shape[1]
    spread = x.std(axis=0) / x.std(axis=0).max()
    graph = np.zeros((features, features))
    for i in range(features):
        for j in range(features):
            correlation = stats.spearmanr(x[:, i], x[:, j]).statistic
            graph[i, j] = 0.5 * max(spread[i], spread[j]) + 0.5 * (1 - abs(correlation))
    r = 0.9 / np.abs(np.linalg.eigvals(graph)).max()
    return (np.linalg.inv(np.eye(features) - r * graph) - np.eye(features)).sum(axis=1)


@given(seed=st.integers(0, 10**6), shots=st.integers(4, 15), width=st.integers(2, 9), levels=st.sampled_from([3, 0]))
@settings(max_examples=40, deadline=None)
def test_the_chosen_features_have_the_highest_scores(seed: int, shots: int, width: int, levels: int) -> None:
    """With `levels`, values are few and so many are equal: their ranks are shared."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels, (shots, width)).astype(float) if levels else rng.standard_normal((shots, width))
    x[0], x[1] = np.arange(width), -1.0 - np.arange(width)  # no feature is constant
    scores = _scores(x)
    for count in range(1, width + 1):
        chosen = select_features(torch.from_numpy(x), count).tolist()
        assert chosen == sorted(set(chosen)) and len(chosen) == count
        left = [i for i in range(width) if i not in chosen]
        assert not left or scores[chosen].min() >= scores[left].max() - 1e-9


def test_a_feature_that_varies_more_or_copies_less_is_preferred() -> None:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    x[:, 2] = 3 * x[:, 2]
    assert select_features(x, 1).tolist() == [2]
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(2))
    x = torch.cat([x, x, torch.randn(40, 1, generator=torch.Generator().manual_seed(3)), x], dim=1)
    x = x / x.std(dim=0)
    assert 2 in select_features(x, 1).tolist()


@given(seed=st.integers(0, 10**6), shots=st.integers(2, 10), constants=st.sets(st.integers(0, 9), max_size=9))
@settings(max_examples=60, deadline=None)
def test_a_constant_feature_is_never_chosen_before_a_varying_one(seed: int, shots: int, constants: set[int]) -> None:
    x = torch.randn(shots, 10, generator=torch.Generator().manual_seed(seed))
    x[:, list(constants)] = 0.1  # no float32 number: its computed deviation need not be 0
    for count in (1, 5, 9, 10):
        chosen = set(select_features(x, count).tolist())
        if chosen & constants:
            assert chosen >= set(range(10)) - constants


@pytest.mark.parametrize("shots", [1, 5])
def test_where_nothing_varies_the_first_features_are_taken(shots: int) -> None:
    assert select_features(torch.full((shots, 6), 0.1), 4).tolist() == [0, 1, 2, 3]


def test_order_of_rows_and_units_do_not_matter() -> None:
    x = torch.randn(30, 12, generator=torch.Generator().manual_seed(5))
    chosen = select_features(x, 6)
    assert torch.equal(select_features(x.flip(0), 6), chosen)
    assert torch.equal(select_features(1e-3 * x, 6), chosen)


def test_more_features_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot select 5 of 4 features; pad them instead"):
        select_features(torch.randn(3, 4), 5)

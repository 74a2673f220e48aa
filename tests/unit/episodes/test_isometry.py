"""Isometries keep distances, follow their law and depend on the seed alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.episodes.isometry import sample_isometry

KINDS = ["none", "haar", "signed_permutation", "householder:1", "householder:5", "bank:3"]


@given(kind=st.sampled_from(KINDS), width=st.integers(1, 48), seed=st.integers(0, 2**62))
@settings(max_examples=60, deadline=None)
def test_isometry_is_orthogonal(kind: str, width: int, seed: int) -> None:
    isometry = sample_isometry(kind, width, seed)
    matrix = isometry(torch.eye(width))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(width), atol=2e-5, rtol=0)
    x = torch.randn(6, width)
    torch.testing.assert_close(torch.cdist(isometry(x), isometry(x)), torch.cdist(x, x), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_isometry(kind: str) -> None:
    x = torch.randn(3, 9)
    assert torch.equal(sample_isometry(kind, 9, 4)(x), sample_isometry(kind, 9, 4)(x))
    if kind != "none":
        assert not torch.allclose(sample_isometry(kind, 9, 4)(x), sample_isometry(kind, 9, 5)(x))


def test_haar_has_the_moments_of_the_uniform_law() -> None:
    """E[tr Q] = 0, E[(tr Q)^2] = 1 and E[q_ij^4] = 3 / (n (n + 2)) on O(n); QR without the sign fix fails the first."""
    width, draws = 5, 3000
    matrices = torch.stack([sample_isometry("haar", width, seed)(torch.eye(width)) for seed in range(draws)])
    traces = matrices.diagonal(dim1=1, dim2=2).sum(dim=1)
    assert abs(traces.mean()) < 4 / draws**0.5
    assert abs(traces.square().mean() - 1) < 0.15
    assert abs(matrices.pow(4).mean() - 3 / (width * (width + 2))) < 0.003
    assert 0.45 < (torch.linalg.det(matrices) > 0).float().mean() < 0.55


def test_a_bank_has_so_many_matrices_of_the_haar_law() -> None:
    x = torch.eye(6)
    found = {tuple(sample_isometry("bank:4", 6, seed)(x).flatten().tolist()) for seed in range(40)}
    drawn = {tuple(sample_isometry("haar", 6, seed)(x).flatten().tolist()) for seed in range(40)}
    assert (len(found), len(drawn), found & drawn) == (4, 40, set())


def test_unknown_kind_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"isometry='spin': allowed are none, haar"):
        sample_isometry("spin", 4, 0)

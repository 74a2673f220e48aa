"""Isometries keep distances, follow their law and depend on the seed alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from pipeline.episodes import isometry as isometry_module
from pipeline.episodes.isometry import HaarOfRows, sample_haar_of_rows, sample_isometry

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


@pytest.mark.parametrize("kind", ["haar", "signed_permutation", "householder:5"])
def test_every_bit_of_the_seed_counts(kind: str) -> None:
    """torch's CPU generator reads the lower 32 bits of a seed alone; episodes have 63."""
    x = torch.randn(3, 9)
    drawn = [sample_isometry(kind, 9, seed)(x) for seed in (4, 4 + 2**32, 4 + 2**62)]
    assert not torch.allclose(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])


def _haar_matrices(width: int, draws: int) -> Tensor:
    eye = torch.eye(width)
    return torch.stack([sample_isometry("haar", width, seed)(eye) for seed in range(draws)])


def _qr_matrices(width: int, draws: int, *, sign_fix: bool) -> Tensor:
    """Mezzadri's recipe; without the sign fix the law is LAPACK's, not the uniform one."""
    generator = torch.Generator().manual_seed(123)
    q, r = torch.linalg.qr(torch.randn(draws, width, width, generator=generator))
    return q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1) if sign_fix else q


def test_haar_has_the_moments_of_the_uniform_law() -> None:
    """E[tr Q] = 0, E[(tr Q)^2] = 1 and E[q_ij^4] = 3 / (n (n + 2)) on O(n); QR without the sign fix fails the first."""
    width, draws = 5, 3000
    matrices = _haar_matrices(width, draws)
    traces = matrices.diagonal(dim1=1, dim2=2).sum(dim=1)
    assert abs(traces.mean()) < 4 / draws**0.5
    assert abs(traces.square().mean() - 1) < 0.15
    assert abs(matrices.pow(4).mean() - 3 / (width * (width + 2))) < 0.003
    assert 0.45 < (torch.linalg.det(matrices) > 0).float().mean() < 0.55


def test_haar_has_the_joint_moments_of_the_uniform_law() -> None:
    """Products of several entries of O(n), for every pair of rows and columns (Weingarten calculus)."""
    n, draws = 4, 6000
    q = _haar_matrices(n, draws)
    for i in range(n):
        for j in range(i):
            a, b, c, d = q[:, i, i], q[:, j, j], q[:, i, j], q[:, j, i]
            error = 4 / draws**0.5  # four standard deviations of a mean, for entries of variance 1 / n at most
            assert abs((a * b).mean()) < error / n
            assert abs((c * d).mean()) < error / n
            assert abs((a * b * c * d).mean() + 1 / ((n - 1) * n * (n + 2))) < error / n**2
            assert abs((a * b).square().mean() - (n + 1) / ((n - 1) * n * (n + 2))) < error / n
            assert abs((a * c).square().mean() - 1 / (n * (n + 2))) < error / n


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "first entry": lambda q: q[:, 0, 0],
    "last entry": lambda q: q[:, -1, -1],
    "upper corner": lambda q: q[:, 0, -1],
    "lower corner": lambda q: q[:, -1, 0],
    "largest entry": lambda q: q.amax(dim=(1, 2)),
    "trace": lambda q: q.diagonal(dim1=1, dim2=2).sum(dim=1),
    "trace of the square": lambda q: (q @ q).diagonal(dim1=1, dim2=2).sum(dim=1),
    "two diagonal entries": lambda q: q[:, 0, 0] * q[:, -1, -1],
    "minor": lambda q: q[:, 0, 0] * q[:, 1, 1] - q[:, 0, 1] * q[:, 1, 0],
    "symmetry": lambda q: (q * q.mT).sum(dim=(1, 2)),
    "frame": lambda q: (torch.tensor([[0.6, 0.8, 0.0, 0.0]]) @ q @ torch.tensor([0.5, -0.5, 0.1, 0.7])).squeeze(1),
}
"""Scalars of 4 x 4 matrices; the last one maps a fixed vector and measures it along another."""


def _p_values(other: Tensor) -> dict[str, float]:
    ours = _haar_matrices(4, 3000)
    return {
        name: float(stats.ks_2samp(statistic(ours).numpy(), statistic(other).numpy()).pvalue)
        for name, statistic in STATISTICS.items()
    }


def test_haar_has_the_law_of_qr_with_the_sign_fix() -> None:
    same = _p_values(_qr_matrices(4, 3000, sign_fix=True))
    assert min(same.values()) > 1e-3, same
    other = _p_values(_qr_matrices(4, 3000, sign_fix=False))
    assert min(other.values()) < 1e-9, "the same comparison must tell another law"


def test_haar_of_one_and_two_coordinates() -> None:
    signs = _haar_matrices(1, 400).flatten()
    assert set(signs.tolist()) == {-1.0, 1.0} and abs(signs.mean()) < 0.2
    q = _haar_matrices(2, 2000)
    angles = torch.atan2(q[:, 0, 1], q[:, 0, 0]).numpy()
    for part in (torch.linalg.det(q) > 0, torch.linalg.det(q) < 0):
        assert 0.45 < part.float().mean() < 0.55
        assert stats.kstest(angles[part.numpy()], stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


def test_haar_is_orthogonal_at_the_width_of_real_encoders() -> None:
    matrix = sample_isometry("haar", 768, 1)(torch.eye(768))
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(768), atol=5e-6, rtol=0)


def test_haar_survives_numbers_that_are_exactly_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isometry_module, "gaussian", lambda rng, *shape: torch.zeros(shape))
    matrix = sample_isometry("haar", 5, 0)(torch.eye(5))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(5))


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_leading_axes(kind: str) -> None:
    isometry, x = sample_isometry(kind, 6, 2), torch.randn(2, 3, 4, 6)
    assert isometry(x).shape == x.shape and isometry(x[0, 0, 0]).shape == (6,)
    torch.testing.assert_close(isometry(x)[1, 2, 3], isometry(x[1, 2, 3]))
    torch.testing.assert_close(isometry(x.transpose(0, 2)), isometry(x).transpose(0, 2))


def test_a_bank_has_so_many_matrices_of_the_haar_law() -> None:
    x = torch.eye(6)
    found = {tuple(sample_isometry("bank:4", 6, seed)(x).flatten().tolist()) for seed in range(40)}
    drawn = {tuple(sample_isometry("haar", 6, seed)(x).flatten().tolist()) for seed in range(40)}
    assert (len(found), len(drawn), found & drawn) == (4, 40, set())


def test_unknown_kind_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"isometry='spin': allowed are none, haar"):
        sample_isometry("spin", 4, 0)


def _rows_of(draw: Callable[[int], Callable[[Tensor], Tensor]], x: Tensor, draws: int) -> Tensor:
    return torch.stack([draw(seed)(x) for seed in range(draws)])


def test_few_rows_are_mapped_by_an_isometry() -> None:
    x = torch.nn.functional.normalize(torch.randn(2, 132, 768), dim=2)
    y = sample_haar_of_rows(132, 768, [3, 2**40])(x)
    assert y.dtype == torch.float32 and torch.equal(y, sample_haar_of_rows(132, 768, [3, 2**40])(x))
    torch.testing.assert_close(y @ y.mT, x @ x.mT, atol=5e-6, rtol=0)
    assert (x * y).sum(dim=2).abs().max() < 0.25, "nothing is left of the directions"
    alone = sample_haar_of_rows(132, 768, [2**40])(x[1:])
    torch.testing.assert_close(y[1:], alone, atol=1e-6, rtol=0)


def test_few_rows_have_the_law_of_rows_under_the_whole_isometry() -> None:
    x = torch.tensor([[0.6, 0.8, 0.0, 0.0, 0.0, 0.0], [0.5, -0.1, 0.3, 0.7, 0.2, 0.1]])
    statistics: dict[str, Callable[[Tensor], Tensor]] = {
        "entry": lambda y: y[:, 0, 0],
        "other entry": lambda y: y[:, 1, -1],
        "same column": lambda y: y[:, 0, 1] * y[:, 1, 1],
        "two columns": lambda y: y[:, 0, 0] * y[:, 1, 2] - y[:, 0, 2] * y[:, 1, 0],
        "largest": lambda y: y.amax(dim=(1, 2)),
    }
    few = sample_haar_of_rows(2, 6, range(4000))(x.expand(4000, -1, -1))
    whole = _rows_of(lambda seed: sample_isometry("haar", 6, seed), x, 4000)
    unscaled = HaarOfRows(gaussian_NnE=torch.rand(4000, 2, 6))(x.expand(4000, -1, -1))
    for name, statistic in statistics.items():
        assert stats.ks_2samp(statistic(few).numpy(), statistic(whole).numpy()).pvalue > 1e-3, name
    assert stats.ks_2samp(unscaled[:, 0, 0].numpy(), whole[:, 0, 0].numpy()).pvalue < 1e-9, "another law is told apart"


@given(
    rows=st.integers(2, 16),
    rank=st.integers(1, 16),
    copies=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=12),
    zeros=st.lists(st.integers(0, 15), max_size=2),
    log_size=st.floats(-6, 6),
    seed=st.integers(0, 2**62),
)
def test_rows_that_depend_on_one_another_keep_every_distance(
    rows: int, rank: int, copies: list[tuple[int, int]], zeros: list[int], log_size: float, seed: int
) -> None:
    """Samples that occur twice, features of a few directions only, vectors that vanished; of any size."""
    generator = torch.Generator().manual_seed(seed % 2**31)
    x = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, 32, generator=generator)
    x = 10**log_size * torch.nn.functional.normalize(x, dim=1)
    for source, copy in copies:
        x[copy % rows] = x[source % rows]
    for row in zeros:
        x[row % rows] = 0.0
    (y,) = sample_haar_of_rows(rows, 32, [seed])(x.unsqueeze(0))
    size = float(x.norm(dim=1).max())
    torch.testing.assert_close(torch.cdist(y, y), torch.cdist(x, x), atol=5e-6 * size + 1e-15, rtol=0)
    torch.testing.assert_close(y @ y.T, x @ x.T, atol=2e-6 * size**2 + 1e-30, rtol=0)


def test_rows_must_be_those_that_it_was_drawn_for() -> None:
    with pytest.raises(ValueError, match=r"were drawn for \(1, 3, 32\) numbers, got \(1, 2, 32\): map all rows"):
        sample_haar_of_rows(3, 32, [0])(torch.zeros(1, 2, 32))

"""Width maps: isometries of what they keep, or zeros and chosen features; fitted to the support alone."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.config.schema import WidthMapKind
from pipeline.episodes.isometry import sample_isometry
from pipeline.episodes.width import fit_width_map

KINDS: tuple[WidthMapKind, ...] = get_args(WidthMapKind)


def _support(shots: int, width: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(shots, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


@given(
    kind=st.sampled_from(KINDS), width=st.integers(1, 14), common=st.integers(1, 14), shots=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_maps_have_orthonormal_rows_or_columns(
    kind: WidthMapKind, width: int, common: int, shots: int, seed: int
) -> None:
    support = _support(shots, width)
    matrix = fit_width_map(support, common, kind=kind, seed=seed).matrix_EW
    assert matrix.shape == (width, common)
    gram = matrix @ matrix.T if width <= common else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(min(width, common)), atol=1e-5, rtol=0)
    again = fit_width_map(support.clone(), common, kind=kind, seed=seed).matrix_EW
    assert torch.equal(matrix, again)


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_rows_are_mapped(kind: WidthMapKind) -> None:
    repeated = _support(1, 9).expand(6, -1)
    matrix = fit_width_map(repeated, 4, kind=kind, seed=1).matrix_EW
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(4), atol=1e-5, rtol=0)


def test_every_bit_of_the_seed_counts() -> None:
    for width in (3, 9):
        maps = [fit_width_map(_support(2, width), 5, kind="orthonormal", seed=seed) for seed in (1, 1 + 2**32)]
        assert not torch.allclose(maps[0].matrix_EW, maps[1].matrix_EW)


def test_a_lift_is_uniform_and_independent_of_the_rotation_of_its_seed() -> None:
    """An episode has one seed for both; were they made of the same numbers, their product would not be uniform."""
    draws = 4000
    support, eye = _support(3, 3), torch.eye(4)
    lifts = torch.stack([fit_width_map(support, 4, kind="orthonormal", seed=i).matrix_EW for i in range(draws)])
    rotations = torch.stack([sample_isometry("haar", 4, i)(eye) for i in range(draws)])
    assert lifts.mean(dim=0).abs().max() < 4 * (1 / 4 / draws) ** 0.5
    assert (torch.einsum("nij,nkl->ijkl", lifts, rotations) / draws).abs().max() < 5 * (1 / 16 / draws) ** 0.5


def test_principal_directions_keep_what_varies() -> None:
    """Rows of a 3-dimensional affine subspace keep their distances in 3 of 8 coordinates."""
    rows = _support(20, 3) @ torch.linalg.qr(_support(8, 8))[0][:3] + 0.5
    mapped = fit_width_map(rows, 3, kind="orthonormal", seed=0)(rows)
    torch.testing.assert_close(torch.cdist(mapped, mapped), torch.cdist(rows, rows), atol=1e-4, rtol=0)


def test_padding_puts_zeros_behind_the_features() -> None:
    x = _support(5, 6)
    padded = fit_width_map(x, 9, kind="pad_select", seed=0)(x)
    assert torch.equal(padded[:, :6], x) and not padded[:, 6:].any()


@given(width=st.integers(2, 20), shots=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_selection_keeps_distinct_features_as_they_are(width: int, shots: int, seed: int) -> None:
    x, common = _support(shots, width, seed), (width + 1) // 2
    width_map = fit_width_map(x, common, kind="pad_select", seed=0)
    assert set(width_map.matrix_EW.unique().tolist()) <= {0.0, 1.0}
    assert width_map.matrix_EW.sum(dim=0).tolist() == [1.0] * common
    assert width_map.matrix_EW.sum(dim=1).max() == 1.0
    assert torch.equal(width_map(x), x[:, width_map.matrix_EW.argmax(dim=0)])

"""Augmentations beyond isometries: drawn from the seed alone, of the asked size, unit vectors out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.episodes.augmentation import augment, sample_augmentation
from pipeline.episodes.isometry import sample_haar_of_rows, sample_isometry

WIDTH = 64


def unit(rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, WIDTH, generator=generator), dim=-1)


@pytest.mark.parametrize("kind", ["none", "haar", "bank:2", "householder:3", "signed_permutation"])
def test_isometries_are_left_as_they_are(kind: str) -> None:
    x = unit(5)
    assert torch.equal(sample_augmentation(kind, WIDTH, 7)(x), sample_isometry(kind, WIDTH, 7)(x))


@given(kind=st.sampled_from(["scale:0.3", "scale:1", "warp:0.5", "warp:2"]), seed=st.integers(0, 2**62))
def test_draws_depend_on_the_seed_alone_and_give_unit_vectors(kind: str, seed: int) -> None:
    x = unit(6)
    bent = sample_augmentation(kind, WIDTH, seed)(x)
    assert torch.equal(bent, sample_augmentation(kind, WIDTH, seed)(x))
    assert not torch.allclose(bent, sample_augmentation(kind, WIDTH, seed + 1)(x), atol=1e-2)
    torch.testing.assert_close(bent.norm(dim=-1), torch.ones(6))


@pytest.mark.parametrize("kind", ["scale:1", "warp:1"])
def test_every_bit_of_the_seed_counts(kind: str) -> None:
    """Of the gains and of the warp too, not of the rotation alone."""
    draws = [sample_augmentation(kind, WIDTH, seed) for seed in (5, 5 + 2**32)]
    pair = [draw.gains_E if draw.mixing_EE is None else draw.mixing_EE for draw in draws]
    assert pair[0] is not None and pair[1] is not None and not torch.allclose(pair[0], pair[1])


@pytest.mark.parametrize("name", ["scale", "warp"])
def test_the_amount_decides_how_far_distances_bend(name: str) -> None:
    x = unit(40)
    distances = torch.pdist(x)
    bends = [
        float((torch.pdist(sample_augmentation(f"{name}:{amount}", WIDTH, 3)(x)) - distances).abs().mean())
        for amount in ("0", "0.2", "1")
    ]
    assert bends[0] < 1e-5
    assert 1e-3 < bends[1] < bends[2]


def test_warp_is_no_linear_map() -> None:
    """A linear map before normalisation keeps a point of the plane of two others in their plane; the warp does not."""
    a, b = unit(2)
    three = torch.stack([a, b, functional.normalize(a + b, dim=0)])
    ranks = {
        kind: int(torch.linalg.matrix_rank(sample_augmentation(kind, WIDTH, 1)(three), rtol=1e-3))
        for kind in ("scale:1", "warp:1")
    }
    assert ranks == {"scale:1": 2, "warp:1": 3}


@pytest.mark.parametrize("kind", ["none", "bank:2", "householder:3", "signed_permutation", "haar", "scale:1", "warp:1"])
def test_episodes_get_their_own_draws(kind: str) -> None:
    """Forty rows of width 64 are too many for the way of few rows."""
    x = torch.stack([unit(40), unit(40, seed=1)])
    expected = torch.stack([sample_augmentation(kind, WIDTH, seed)(rows) for rows, seed in zip(x, (5, 6), strict=True)])
    torch.testing.assert_close(augment(x, kind, [5, 6]), expected)


@pytest.mark.parametrize("kind", ["haar", "scale:0.5", "warp:0.5"])
def test_few_rows_are_rotated_as_those_rows_see_it(kind: str) -> None:
    x = torch.stack([unit(6), unit(6, seed=1)])
    rotated = sample_haar_of_rows(6, WIDTH, [5, 6])(x)
    if kind == "haar":
        assert torch.equal(augment(x, kind, [5, 6]), rotated)
        return
    draws = [sample_augmentation(kind, WIDTH, seed) for seed in (5, 6)]
    bends = [replace(draw, isometry=sample_isometry("none", WIDTH, 0)) for draw in draws]
    expected = torch.stack([bend(rows) for bend, rows in zip(bends, rotated, strict=True)])
    torch.testing.assert_close(augment(x, kind, [5, 6]), expected)
    assert not torch.allclose(augment(x, kind, [5, 6]), rotated, atol=1e-2)

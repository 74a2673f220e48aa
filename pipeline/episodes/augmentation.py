"""How an episode changes a real embedding space: by an isometry, or for ablation by what is none (METHOD section 5).

In: a kind, a width and a seed.  Out: a map of `[..., E]` to `[..., E]`, for an episode's support and queries alike.

Reviewers of the paper asked whether rotation emulates new encoders. `scale:s` and `warp:s` go further: they bend
distances by an amount s, and bring every vector back to the length 1 that encoders' vectors have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.episodes.isometry import Isometry, gaussian, sample_haar_of_rows, sample_isometry
from pipeline.episodes.sampler import philox
from pipeline.transfer import to_device

_STREAM = 13
_BENT = ("scale", "warp")


@dataclass(frozen=True, kw_only=True, eq=False)
class Augmentation:
    """An isometry, and what may follow it."""

    isometry: Isometry
    """Applied first."""
    gains_E: Tensor | None = None
    """Factors of the coordinates."""
    mixing_EE: Tensor | None = None
    """Weights W of the smooth non-linear term `strength * tanh(z W) / sqrt(E)`; for a unit z, z W is of size 1."""
    strength: float = 0.0
    """Size of that term relative to z."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        z = self.isometry(x)
        if self.gains_E is not None:
            return functional.normalize(z * self.gains_E, dim=-1)
        if self.mixing_EE is not None:
            bent = self.strength * torch.tanh(z @ self.mixing_EE) / z.shape[-1] ** 0.5
            return functional.normalize(z + bent, dim=-1)
        return z


def augment(x_NnE: Tensor, kind: str, seeds: Sequence[int]) -> Tensor:
    """Rows of N episodes, each episode's n rows under a draw of its own of what `episodes.isometry` names; `[N, n, E]`.

    A pure function of its arguments. Where rows are few, a Haar isometry is drawn as those rows see it: in law that of
    `sample_augmentation` at a lower price, but another draw.
    """
    _, rows, width = x_NnE.shape
    device = x_NnE.device
    if kind.partition(":")[0] not in ("haar", *_BENT) or 2 * rows > width:
        draws = [sample_augmentation(kind, width, seed, device=device) for seed in seeds]
    else:
        x_NnE = sample_haar_of_rows(rows, width, seeds, device=device)(x_NnE)
        if kind == "haar":
            return x_NnE
        draws = [_bent(Isometry(), kind, width, seed, device) for seed in seeds]
    return torch.stack([draw(x_nE) for draw, x_nE in zip(draws, x_NnE, strict=True)])


def sample_augmentation(kind: str, width: int, seed: int, *, device: torch.device | str = "cpu") -> Augmentation:
    """Draw what `episodes.isometry` names, for any number of rows at any time; a pure function of its arguments.

    `scale:s` is a Haar rotation and log-normal gains of standard deviation s on the axes; `warp:s` a Haar rotation and
    a random smooth non-linear term of size s. All other kinds are those of `sample_isometry`.
    """
    if kind.partition(":")[0] not in _BENT:
        return Augmentation(isometry=sample_isometry(kind, width, seed, device=device))
    return _bent(sample_isometry("haar", width, seed, device=device), kind, width, seed, device)


def _bent(isometry: Isometry, kind: str, width: int, seed: int, device: torch.device | str) -> Augmentation:
    name, _, amount = kind.partition(":")
    strength = float(amount)
    rng = philox(_STREAM, seed)
    if name == "scale":
        gains_E = torch.exp(strength * gaussian(rng, width))
        return Augmentation(isometry=isometry, gains_E=to_device(gains_E, device))
    mixing_EE = gaussian(rng, width, width)
    return Augmentation(isometry=isometry, mixing_EE=to_device(mixing_EE, device), strength=strength)

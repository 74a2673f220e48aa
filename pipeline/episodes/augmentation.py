"""How an episode changes a real embedding space: by an isometry, or for ablation by what is none (METHOD section 5).

In: a kind, a width and a seed.  Out: a map of `[..., E]` to `[..., E]`, for an episode's support and queries alike.

Reviewers of the paper asked whether rotation emulates new encoders. `scale:s` and `warp:s` go further: they bend
distances by an amount s, and bring every vector back to the length 1 that encoders' vectors have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.episodes.isometry import HaarOfRows, Isometry, gaussian, sample_isometry, sample_isometry_of_rows
from pipeline.episodes.sampler import philox

_STREAM = 13


@dataclass(frozen=True, kw_only=True, eq=False)
class Augmentation:
    """An isometry, and what may follow it."""

    isometry: Isometry | HaarOfRows
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


def sample_augmentation(
    kind: str, width: int, seed: int, *, rows: int | None = None, device: torch.device | str = "cpu"
) -> Augmentation:
    """Draw what `episodes.isometry` names; a pure function of its arguments.

    With `rows`, it maps so many rows, all at once; without, any number at any time, at a higher price.

    `scale:s` is a Haar rotation and log-normal gains of standard deviation s on the axes; `warp:s` a Haar rotation and
    a random smooth non-linear term of size s. All other kinds are those of `sample_isometry`.
    """
    name, _, amount = kind.partition(":")
    if name not in ("scale", "warp"):
        return Augmentation(isometry=_isometry(kind, width, seed, rows, device))
    strength = float(amount)
    rotation = _isometry("haar", width, seed, rows, device)
    rng = philox(_STREAM, seed)
    if name == "scale":
        gains_E = torch.exp(strength * gaussian(rng, width)).to(device)
        return Augmentation(isometry=rotation, gains_E=gains_E)
    mixing_EE = gaussian(rng, width, width).to(device)
    return Augmentation(isometry=rotation, mixing_EE=mixing_EE, strength=strength)


def _isometry(kind: str, width: int, seed: int, rows: int | None, device: torch.device | str) -> Isometry | HaarOfRows:
    if rows is None:
        return sample_isometry(kind, width, seed, device=device)
    return sample_isometry_of_rows(kind, rows, width, seed, device=device)

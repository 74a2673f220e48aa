"""What makes a text embedding resemble the embedding of a signal: uneven axes and nuisance (METHOD section 6).

In: text embeddings of one episode that stand for a modality's, and a seed.  Out: unit vectors of the same shape.

An encoder of signals does not keep every fact equally well and mixes in what no caption tells. Text embeddings do
neither, so a hypernetwork that met only them would trust a support set too much.

Shape suffixes: n rows (support and queries together), E width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.episodes.isometry import gaussian
from pipeline.episodes.sampler import philox

_STREAM = 14
_STEEPEST = 0.5
"""Largest exponent of the nuisance's power law over the axes."""


def distort(x_nE: Tensor, *, scale: float, noise: float, seed: int) -> Tensor:
    """Stretch the axes at random and add nuisance; a pure function of its arguments.

    `scale` is the standard deviation of the axes' log gains. The nuisance's size, relative to the rows' own spread, is
    uniform in 0..`noise`; its variance falls over the axes by a random power law. Axes are those of the coordinates:
    apply a random rotation first. With both settings 0 the rows come back as they are.
    """
    if not scale and not noise:
        return x_nE
    rng = philox(_STREAM, seed)
    width = x_nE.shape[1]
    gains_E = torch.exp(scale * gaussian(rng, width)).to(x_nE)
    level, exponent = rng.random(2).tolist()
    profile_E = torch.arange(1, width + 1, dtype=torch.float32) ** (-_STEEPEST * exponent)
    profile_E = profile_E / profile_E.square().mean().sqrt()
    noise_nE = gaussian(rng, *x_nE.shape) * profile_E
    stretched_nE = x_nE * gains_E
    spread = (stretched_nE - stretched_nE.mean(dim=0)).square().mean().sqrt()
    return functional.normalize(stretched_nE + noise * level * spread * noise_nE.to(x_nE), dim=-1)

"""Random isometries of an embedding space: how one real modality becomes many (METHOD section 2.2).

In: a kind, a width and a seed.  Out: an `Isometry` that maps `[..., E]` to `[..., E]` and keeps every distance.
One draw serves an episode's support and queries alike; text embeddings get none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

_BANK_SEED = 0x5EED_0000
"""Of a bank's first matrix; torch's CPU generator reads the lower 32 bits of a seed alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Isometry:
    """A drawn isometry in the cheapest form that its kind allows."""

    matrix_EE: Tensor | None = None
    """Dense orthogonal matrix; rows are multiplied from the left: `x @ matrix`."""
    reflectors_HE: Tensor | None = None
    """Unit normals of Householder reflections, applied first to last."""
    permutation_E: Tensor | None = None
    """Indices of a permutation of the coordinates."""
    signs_E: Tensor | None = None
    """Signs applied after the permutation."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        if self.matrix_EE is not None:
            return x @ self.matrix_EE
        if self.reflectors_HE is not None:
            for normal_E in self.reflectors_HE:
                x = x - 2.0 * (x @ normal_E).unsqueeze(-1) * normal_E
            return x
        if self.permutation_E is not None and self.signs_E is not None:
            return x[..., self.permutation_E] * self.signs_E
        return x


def sample_isometry(kind: str, width: int, seed: int, *, device: torch.device | str = "cpu") -> Isometry:
    """Draw an isometry of `R^width`; a pure function of its arguments.

    `haar` is uniform on O(E): QR of a Gaussian matrix with the signs of R's diagonal moved into Q (without that fix
    the law of Q depends on the QR routine: Mezzadri 2007). `bank:n` draws one of n such matrices, which are made once a
    process and kept (n * width^2 * 4 bytes). `householder:k` composes k random reflections, `none` is the identity and
    `signed_permutation` permutes and flips coordinates.

    Numbers are drawn on the CPU, so that every device gets the same isometry; the rest is done where `device` says.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "none":
        return Isometry()
    if kind == "haar":
        return Isometry(matrix_EE=_haar(width, generator, device))
    if kind == "signed_permutation":
        permutation_E = torch.randperm(width, generator=generator)
        signs_E = torch.randint(0, 2, (width,), generator=generator).float() * 2.0 - 1.0
        return Isometry(permutation_E=permutation_E.to(device), signs_E=signs_E.to(device))
    name, _, count = kind.partition(":")
    if name == "bank" and count.isdigit() and int(count) > 0:
        return Isometry(matrix_EE=_banked(width, seed % int(count), torch.device(device)))
    if name == "householder" and count.isdigit() and int(count) > 0:
        normals_HE = torch.randn(int(count), width, generator=generator)
        return Isometry(reflectors_HE=torch.nn.functional.normalize(normals_HE, dim=-1).to(device))
    raise ValueError(
        f"isometry={kind!r}: allowed are none, haar, bank:n, signed_permutation and householder:k, n, k >= 1"
    )


def _haar(width: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
    q_EE, r_EE = torch.linalg.qr(torch.randn(width, width, generator=generator).to(device))
    signs_E = torch.where(r_EE.diagonal() < 0, -1.0, 1.0)
    matrix_EE: Tensor = q_EE * signs_E
    return matrix_EE


@cache
def _banked(width: int, index: int, device: torch.device) -> Tensor:
    return _haar(width, torch.Generator().manual_seed(_BANK_SEED + index), device)

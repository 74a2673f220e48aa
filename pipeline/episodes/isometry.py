"""Random isometries of an embedding space: how one real modality becomes many (METHOD section 2.2).

In: a kind, a width and a seed.  Out: an `Isometry` that maps `[..., E]` to `[..., E]` and keeps every distance.
One draw serves an episode's support and queries alike; text embeddings get none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    the law of Q depends on the QR routine: Mezzadri 2007). `householder:k` composes k random reflections, `none` is
    the identity and `signed_permutation` permutes and flips coordinates.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "none":
        return Isometry()
    if kind == "haar":
        gaussian_EE = torch.randn(width, width, generator=generator)
        q_EE, r_EE = torch.linalg.qr(gaussian_EE)
        signs_E = torch.where(r_EE.diagonal() < 0, -1.0, 1.0)
        return Isometry(matrix_EE=(q_EE * signs_E).to(device))
    if kind == "signed_permutation":
        permutation_E = torch.randperm(width, generator=generator)
        signs_E = torch.randint(0, 2, (width,), generator=generator).float() * 2.0 - 1.0
        return Isometry(permutation_E=permutation_E.to(device), signs_E=signs_E.to(device))
    name, _, count = kind.partition(":")
    if name == "householder" and count.isdigit() and int(count) > 0:
        normals_HE = torch.randn(int(count), width, generator=generator)
        return Isometry(reflectors_HE=torch.nn.functional.normalize(normals_HE, dim=-1).to(device))
    raise ValueError(f"isometry={kind!r}: allowed are none, haar, signed_permutation and householder:k with k >= 1")

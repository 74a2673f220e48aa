"""Encoders of any width for models of one common width.

In: a support set `[K, E]`.  Out: a linear map `R^E -> R^W` with orthonormal rows or columns, so that it is an isometry
of the space that it keeps. (The reference pads and cuts, or selects features with InfFS: METHOD section 2.3.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class WidthMap:
    """`x -> x @ matrix`."""

    matrix_EW: Tensor
    """Orthonormal rows (E <= W) or columns (E > W)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map `[..., E]` to `[..., W]`."""
        return x @ self.matrix_EW


def fit_width_map(support_KE: Tensor, common_width: int, *, seed: int) -> WidthMap:
    """The width map of one modality, from its support only.

    E <= W: a random orthonormal lift, which a hypernetwork trained under Haar rotations has seen already.
    E > W: the support's principal directions; where K < W they are completed by random orthonormal ones.
    """
    width = support_KE.shape[1]
    generator = torch.Generator().manual_seed(seed)
    if width <= common_width:
        lift_WE, _ = torch.linalg.qr(torch.randn(common_width, width, generator=generator))
        return WidthMap(matrix_EW=lift_WE.T.to(support_KE))
    centred_KE = support_KE - support_KE.mean(dim=0)
    _, _, directions_RE = torch.linalg.svd(centred_KE, full_matrices=False)
    kept_RE = directions_RE[: min(common_width, support_KE.shape[0] - 1)]
    filler = torch.randn(width, common_width, generator=generator).to(support_KE)
    # QR keeps the leading columns' span, so the principal directions come first and the filler completes them.
    basis_EW, _ = torch.linalg.qr(torch.cat([kept_RE.T, filler], dim=1)[:, :common_width])
    return WidthMap(matrix_EW=basis_EW)

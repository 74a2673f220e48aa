"""Encoders of any width for models of one common width.

In: a support set `[K, E]`.  Out: a linear map `R^E -> R^W`, fitted to that support alone.

`orthonormal` maps have orthonormal rows or columns, so that each is an isometry of the space that it keeps.
`pad_select` is the reference's way (METHOD section 2.3): zeros behind a narrow encoder's features, and of a wide
encoder's features the W that `feature_selection` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.config.schema import WidthMapKind
from pipeline.episodes.feature_selection import select_features
from pipeline.episodes.isometry import gaussian, sample_isometry
from pipeline.episodes.sampler import philox

_STREAM = 15


@dataclass(frozen=True, kw_only=True, eq=False)
class WidthMap:
    """`x -> x @ matrix`."""

    matrix_EW: Tensor
    """Orthonormal rows (E <= W) or columns (E > W)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map `[..., E]` to `[..., W]`."""
        return x @ self.matrix_EW.to(x)


def fit_width_map(support_KE: Tensor, common_width: int, *, kind: WidthMapKind, seed: int) -> WidthMap:
    """The width map of one modality, from its support only.

    E <= W: a random orthonormal lift, which a hypernetwork trained under Haar rotations has seen already; or zeros
    behind the features, so that a projector folded with the map is one whose first layer lost its other columns.
    E > W: the support's principal directions, where K < W completed by random orthonormal ones; or W of the features.
    """
    width = support_KE.shape[1]
    if kind == "pad_select":
        if width <= common_width:
            return WidthMap(matrix_EW=torch.eye(width, common_width).to(support_KE))
        chosen_W = select_features(support_KE, common_width)
        return WidthMap(matrix_EW=torch.eye(width).to(support_KE)[:, chosen_W])
    # Of a stream of its own: the isometry of the same episode has the same seed.
    rng = philox(_STREAM, seed)
    if width <= common_width:
        rotation = sample_isometry("haar", common_width, int(rng.integers(2**63 - 1)))
        return WidthMap(matrix_EW=rotation(torch.eye(width, common_width)).to(support_KE))
    centred_KE = support_KE - support_KE.mean(dim=0)
    _, _, directions_RE = torch.linalg.svd(centred_KE, full_matrices=False)
    kept_RE = directions_RE[: min(common_width, support_KE.shape[0] - 1)]
    filler = gaussian(rng, width, common_width).to(support_KE)
    # QR keeps the leading columns' span, so the principal directions come first and the filler completes them.
    basis_EW, _ = torch.linalg.qr(torch.cat([kept_RE.T, filler], dim=1)[:, :common_width])
    return WidthMap(matrix_EW=basis_EW)

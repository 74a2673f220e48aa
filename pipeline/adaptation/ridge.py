"""Ridge regression from support embeddings to text space (METHOD section 5), its penalty chosen inside the support.

Shape suffixes: K pairs, E encoder width, W text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeMap:
    """`x -> normalise((x - x_mean) M + t_mean)`."""

    matrix_EW: Tensor
    """Regression coefficients M."""
    x_mean_E: Tensor
    """Mean embedding of the support."""
    t_mean_W: Tensor
    """Mean text embedding of the support."""
    penalty: float
    """Chosen penalty, in units of the Gram matrix's mean eigenvalue."""

    def __call__(self, x: Tensor) -> Tensor:
        """Unit-norm points of text space."""
        return functional.normalize((x - self.x_mean_E) @ self.matrix_EW + self.t_mean_W, dim=-1)


def fit_ridge(x_KE: Tensor, t_KW: Tensor, penalties: Sequence[float]) -> RidgeMap:
    """Ridge regression in its dual form; the penalty with the best leave-one-out cosine similarity to the texts."""
    x_mean_E, t_mean_W = x_KE.mean(dim=0), t_KW.mean(dim=0)
    # Double precision: with more pairs than dimensions the Gram matrix is singular up to the penalty.
    x, t = (x_KE - x_mean_E).double(), (t_KW - t_mean_W).double()
    gram_KK = x @ x.T
    unit = gram_KK.diagonal().mean().clamp_min(torch.finfo(x.dtype).tiny)
    identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    best: tuple[float, float, Tensor] | None = None
    for penalty in penalties:
        inverse_KK = torch.linalg.inv(gram_KK + penalty * unit * identity)
        score = _leave_one_out_cosine(inverse_KK @ t, inverse_KK, t_KW)
        if best is None or score > best[0]:
            best = (score, penalty, inverse_KK)
    if best is None:
        raise ValueError("evaluate.ridge_penalties is empty; give at least one positive penalty")
    _, chosen, inverse_KK = best
    return RidgeMap(matrix_EW=(x.T @ (inverse_KK @ t)).to(x_KE), x_mean_E=x_mean_E, t_mean_W=t_mean_W, penalty=chosen)


def _leave_one_out_cosine(dual_KW: Tensor, inverse_KK: Tensor, t_KW: Tensor) -> float:
    # Kernel ridge residuals without sample i are dual_i / inverse_ii: no refit (the centring is kept from all K).
    left_out = t_KW - dual_KW / inverse_KK.diagonal().unsqueeze(1)
    return float(functional.cosine_similarity(left_out, t_KW, dim=-1).mean())

"""Ridge regression from support embeddings to text space (METHOD section 5), its penalty chosen inside the support.

In: K pairs and penalties.  Out: a `TextMap`.

Shape suffixes: K pairs, E encoder width, W text width, R directions with variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.adaptation.alignment.base import TextMap, thin_svd


def fit_ridge(x_KE: Tensor, t_KW: Tensor, penalties: Sequence[float]) -> TextMap:
    """The penalty with the best leave-one-out cosine similarity to the texts.

    Penalties are in units of the Gram matrix's mean eigenvalue, `|X|^2 / K`; all of them come from one singular value
    decomposition.
    """
    if not penalties:
        raise ValueError("evaluate.ridge_penalties is empty; give at least one positive penalty")
    x_mean_E, t_mean_W = x_KE.mean(dim=0), t_KW.mean(dim=0)
    # Double precision: with more pairs than dimensions the Gram matrix is singular up to the penalty.
    t_double_KW = t_KW.double()
    centred_KW = t_double_KW - t_double_KW.mean(dim=0)
    u_KR, values_R, v_ER = thin_svd(x_KE.double() - x_KE.double().mean(dim=0))
    squares_R = values_R.square()
    unit = squares_R.sum() / len(x_KE)
    best: tuple[float, float, float, Tensor] | None = None
    for penalty in penalties:
        shrunk_R = squares_R / (squares_R + penalty * unit)
        left_out_KW = left_out_predictions(u_KR, shrunk_R, centred_KW, t_double_KW)
        score = float(functional.cosine_similarity(left_out_KW, t_double_KW, dim=-1).mean())
        if best is None or score > best[0]:
            best = score, penalty, float(left_out_KW.norm(dim=-1).mean()), shrunk_R
    assert best is not None
    _, chosen, norm, shrunk_R = best
    matrix_EW = (v_ER * (shrunk_R / values_R)) @ (u_KR.T @ centred_KW)
    return TextMap(
        matrix_EW=matrix_EW.to(x_KE),
        x_mean_E=x_mean_E,
        t_mean_W=t_mean_W,
        unseen_norm=norm,
        settings={"penalty": chosen},
    )


def left_out_predictions(u_KR: Tensor, shrunk_R: Tensor, centred_KW: Tensor, t_KW: Tensor) -> Tensor:
    """What ridge regression without pair i predicts for pair i, without refitting (all K are centred together).

    With the hat matrix `H = U diag(shrunk) U^T` its error is `(t_i - (H t)_i) / (1 - H_ii)`.
    """
    hat_KR = u_KR * shrunk_R
    residual_KW = centred_KW - hat_KR @ (u_KR.T @ centred_KW)
    leverage_K1 = (hat_KR * u_KR).sum(dim=1, keepdim=True)
    return t_KW - residual_KW / (1.0 - leverage_K1).clamp_min(torch.finfo(t_KW.dtype).eps)

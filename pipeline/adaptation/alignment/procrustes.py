"""Procrustes alignment of support embeddings with text space: a rotation and one scale (METHOD section 5).

In: K pairs.  Out: a `TextMap` whose matrix is `s Q`, the columns or rows of Q orthonormal on the kept directions.

Shape suffixes: K pairs, E encoder width, W text width, R directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.adaptation.alignment.base import Setting, TextMap, choose_by_leaving_out, thin_svd


def fit_procrustes(x_KE: Tensor, t_KW: Tensor, dimensions: Sequence[int]) -> TextMap:
    """`Q = U_R V_R^T` of the singular vectors of `X^T T`; how many are kept is chosen by leave-one-out.

    K pairs determine K - 1 directions at most: a count above that keeps all there are. With equal widths and all
    directions determined, keeping all of them is the orthogonal Procrustes problem.
    """
    if not dimensions:
        raise ValueError("evaluate.alignment_dimensions is empty; give at least one number of directions")
    candidates: list[Setting] = [(float(kept),) for kept in dimensions]
    matrix_EW, best, norm = choose_by_leaving_out(x_KE.double(), t_KW.double(), candidates, _fit_all)
    return TextMap(
        matrix_EW=matrix_EW.to(x_KE),
        x_mean_E=x_KE.mean(dim=0),
        t_mean_W=t_KW.mean(dim=0),
        unseen_norm=norm,
        settings={"dimensions": float(dimensions[best])},
    )


def _fit_all(x_KE: Tensor, t_KW: Tensor, candidates: Sequence[Setting]) -> Iterator[tuple[Tensor, Tensor]]:
    u_ER, values_R, v_WR = thin_svd(x_KE.T @ t_KW)
    # |X Q|^2 grows with the kept directions by each direction's own variance.
    variances_R = (x_KE @ u_ER).square().sum(dim=0).clamp_min(torch.finfo(x_KE.dtype).tiny)
    for (kept,) in candidates:
        rank = min(int(kept), len(values_R))
        scale = values_R[:rank].sum() / variances_R[:rank].sum() if rank else x_KE.new_zeros(())
        yield scale * u_ER[:, :rank], v_WR[:, :rank].T

"""Regularised canonical correlation analysis between support embeddings and texts (METHOD section 5).

In: K pairs.  Out: a `TextMap`: embedding -> canonical variates, shrunk by their correlations -> text space.

Both sides are whitened with a penalty; the singular vectors of their cross-product are the canonical directions. The
best linear guess of a text's canonical variate is the embedding's times their correlation, and the text side's
whitening is undone.

Shape suffixes: K pairs, E encoder width, W text width, R directions with variance of a side, C canonical directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, product

import torch
from torch import Tensor

from pipeline.adaptation.alignment.base import Setting, TextMap, choose_by_leaving_out, thin_svd


def fit_cca(x_KE: Tensor, t_KW: Tensor, *, penalties: Sequence[float], dimensions: Sequence[int]) -> TextMap:
    """Penalty (in units of each side's mean eigenvalue, `|X|^2 / K`) and canonical directions by leave-one-out."""
    if not penalties or not dimensions:
        raise ValueError(
            "evaluate.ridge_penalties and evaluate.alignment_dimensions need at least one value each, got "
            f"{tuple(penalties)} and {tuple(dimensions)}"
        )
    candidates: list[Setting] = [(penalty, float(kept)) for penalty, kept in product(penalties, dimensions)]
    matrix_EW, best, norm = choose_by_leaving_out(x_KE.double(), t_KW.double(), candidates, _fit_all)
    return TextMap(
        matrix_EW=matrix_EW.to(x_KE),
        x_mean_E=x_KE.mean(dim=0),
        t_mean_W=t_KW.mean(dim=0),
        unseen_norm=norm,
        settings={"penalty": candidates[best][0], "dimensions": candidates[best][1]},
    )


def _fit_all(x_KE: Tensor, t_KW: Tensor, candidates: Sequence[Setting]) -> Iterator[tuple[Tensor, Tensor]]:
    sides = _Side(x_KE), _Side(t_KW)
    for penalty, group in groupby(candidates, key=lambda candidate: candidate[0]):
        weights_EC, correlations_C, loadings_CW = _canonical_directions(*sides, penalty)
        for _, kept in group:
            rank = min(int(kept), len(correlations_C))
            yield weights_EC[:, :rank] * correlations_C[:rank], loadings_CW[:rank]


class _Side:
    """Singular value decomposition of one side's centred rows."""

    def __init__(self, rows: Tensor) -> None:
        self.u_KR, self.values_R, self.v_R = thin_svd(rows)

    def root(self, penalty: float) -> Tensor:
        """Square roots of the penalised variances (times K) of its directions."""
        squares_R = self.values_R.square()
        return (squares_R + penalty * squares_R.sum() / len(self.u_KR)).sqrt()


def _canonical_directions(x: _Side, t: _Side, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `[E, C]` of the embeddings, correlations `[C]` and loadings `[C, W]` of the texts."""
    x_root_R, t_root_R = x.root(penalty), t.root(penalty)
    cross = (x.u_KR * (x.values_R / x_root_R)).T @ (t.u_KR * (t.values_R / t_root_R))
    left, correlations_C, right = torch.linalg.svd(cross, full_matrices=False)
    return (x.v_R / x_root_R) @ left, correlations_C, (right * t_root_R) @ t.v_R.T

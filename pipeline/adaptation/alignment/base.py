"""The map that every closed form fits, how its settings are chosen, and how it becomes a projector's first layer.

In: embeddings and text embeddings of K pairs.  Out: a `TextMap`.

Supports without information give a constant map, to the mean text embedding: one pair, one caption only, or embeddings
that are all the same. Features without variance and duplicated pairs only lower the rank. A pair that stands in the
support twice is not left out by leaving out one of the two: duplicates make the chosen penalty smaller.

Shape suffixes: K pairs, E encoder width, W text width, F pairs left out at once, R kept directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.projector import Projector

MAX_FOLDS = 32
"""Refits of the methods without a closed form of their leave-one-out error; larger supports leave out several pairs."""

Setting = tuple[float, ...]
"""One candidate, such as (penalty, directions)."""
FitAll = Callable[[Tensor, Tensor, Sequence[Setting]], Iterator[tuple[Tensor, Tensor]]]
"""Centred pairs `[K, E]`, `[K, W]` and candidates to the factors `[E, R]`, `[R, W]` of each candidate's matrix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextMap:
    """`x -> normalise((x - x_mean) M + t_mean)`."""

    matrix_EW: Tensor
    """M."""
    x_mean_E: Tensor
    """Mean embedding of the support."""
    t_mean_W: Tensor
    """Mean text embedding of the support."""
    unseen_norm: float
    """Mean norm, before it is normalised, of what left-out pairs are mapped to."""
    settings: Mapping[str, float]
    """What was chosen inside the support."""

    def __call__(self, x: Tensor) -> Tensor:
        """Unit-norm points of text space."""
        return functional.normalize((x - self.x_mean_E) @ self.matrix_EW + self.t_mean_W, dim=-1)

    @property
    def size(self) -> int:
        """Numbers fitted and kept."""
        return self.matrix_EW.numel() + self.x_mean_E.numel() + self.t_mean_W.numel()


@torch.no_grad()
def fold_text_map(projector: Projector, text_map: TextMap) -> Projector:
    """A projector that reads the encoder and starts with the map: `W1 (s M)^T x + W1 s (t_mean - x_mean M) + c1`.

    A linear layer cannot normalise each row. In place of that, one factor s brings what the map makes of left-out
    pairs to unit norm in the mean; the fold is exact for every embedding that is mapped to that norm.
    """
    first = projector.linear_layers[0]
    scale = 1.0 / max(text_map.unseen_norm, 1e-6)
    matrix_EW = scale * text_map.matrix_EW.to(first.weight)
    origin_W = scale * (text_map.t_mean_W - text_map.x_mean_E @ text_map.matrix_EW).to(first.weight)
    folded = projector.like(input_width=matrix_EW.shape[0])
    for index, (target, source) in enumerate(zip(folded.linear_layers, projector.linear_layers, strict=True)):
        target.weight.copy_(source.weight if index else source.weight @ matrix_EW.T)
        target.bias.copy_(source.bias if index else source.bias + source.weight @ origin_W)
    return folded.eval()


def choose_by_leaving_out(
    x_KE: Tensor, t_KW: Tensor, candidates: Sequence[Setting], fit_all: FitAll
) -> tuple[Tensor, int, float]:
    """Matrix and index of the candidate with the best cosine similarity to left-out texts, and its predictions' norm.

    Leave-one-out up to `MAX_FOLDS` pairs, every n-th pair above; means are those of the pairs that are left in.
    The first of equal candidates wins. With one pair there is nothing to choose by: the first candidate.
    """
    shots = len(x_KE)
    folds = min(shots, MAX_FOLDS)
    cosines, norms = torch.zeros(len(candidates)), torch.zeros(len(candidates))
    for fold in range(folds if shots > 1 else 0):
        out_K = torch.arange(shots, device=x_KE.device) % folds == fold
        x_mean_E, t_mean_W = x_KE[~out_K].mean(dim=0), t_KW[~out_K].mean(dim=0)
        left_in = x_KE[~out_K] - x_mean_E, t_KW[~out_K] - t_mean_W
        for index, (left_ER, right_RW) in enumerate(fit_all(*left_in, candidates)):
            predicted_FW = (x_KE[out_K] - x_mean_E) @ left_ER @ right_RW + t_mean_W
            cosines[index] += float(functional.cosine_similarity(predicted_FW, t_KW[out_K], dim=-1).sum())
            norms[index] += float(predicted_FW.norm(dim=-1).sum())
    # Rounded, so that candidates which differ by rounding errors alone are equal.
    best = int((cosines / shots).mul(1e6).round().argmax()) if shots > 1 else 0
    ((left_ER, right_RW),) = fit_all(x_KE - x_KE.mean(dim=0), t_KW - t_KW.mean(dim=0), [candidates[best]])
    norm = float(norms[best] / shots) if shots > 1 else float(t_KW.mean(dim=0).norm())
    return left_ER @ right_RW, best, norm


def thin_svd(x_KE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`U [K, R]`, singular values `[R]` and `V [E, R]` of the directions that are no rounding errors; R may be 0."""
    u_KR, values_R, v_RE = torch.linalg.svd(x_KE, full_matrices=False)
    floor = max(x_KE.shape) * torch.finfo(x_KE.dtype).eps
    # Unit vectors, centred: absolute too, or the rounding errors of equal vectors would count as a direction.
    alive_R = values_R > max(floor * float(values_R.max()), floor)
    return u_KR[:, alive_R], values_R[alive_R], v_RE.T[:, alive_R]

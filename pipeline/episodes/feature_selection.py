"""Infinite Feature Selection (Roffo, Melzi, Cristani 2015): how the reference narrows encoders (METHOD section 2.3).

In: the embeddings of a support set `[K, E]`, no labels.  Out: the indices of the features that are kept.

Features are the nodes of a graph; the weight of an edge is large where one of the two varies much and where they are
no copies of each other. A feature's score sums the weights of all paths of any length that start there.

Shape suffixes: K pairs, E features, V features that vary, C chosen features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_SPREAD_SHARE = 0.5
"""Weight of the spread against that of the dissimilarity (alpha)."""
_RADIUS_SHARE = 0.9
"""A path's weight shrinks with each edge by this over the graph's spectral radius, so that the sum is finite."""
_ITERATIONS = 100
"""Of the power method; one eigenvalue towers above the others, because all weights are non-negative."""


def select_features(x_KE: Tensor, count: int) -> Tensor:
    """Indices `[count]` of the features with the highest scores, in their own order; a pure function of its arguments.

    A feature that is the same in all rows has no place in the graph: such features follow behind all that vary, and
    among equals the first is taken.
    """
    width = x_KE.shape[1]
    if count > width:
        raise ValueError(f"cannot select {count} of {width} features; pad them instead")
    varies_E = x_KE.amax(dim=0) > x_KE.amin(dim=0)
    scores_E = torch.full((width,), -torch.inf, dtype=torch.float64, device=x_KE.device)
    if varies_E.any():
        scores_E[varies_E] = _path_weights(_graph(x_KE[:, varies_E]))
    best_C = scores_E.argsort(descending=True, stable=True)[:count]
    return best_C.sort().values


def _graph(x_KV: Tensor) -> Tensor:
    """Edge weights `[V, V]`: alpha max(s_i, s_j) + (1 - alpha) (1 - |rank correlation|).

    Standard deviations s are in units of the largest one: those of a unit vector's coordinates are of size 1/sqrt(E)
    and would count for nothing beside correlations.
    """
    spread_V = x_KV.double().std(dim=0, correction=0)
    spread_V = spread_V / spread_V.max()
    direction_VK = functional.normalize(_ranks(x_KV) - (x_KV.shape[0] + 1) / 2, dim=1)
    difference_VV = 1.0 - (direction_VK @ direction_VK.mT).abs().clamp(max=1.0)
    return _SPREAD_SHARE * torch.maximum(spread_V.unsqueeze(1), spread_V) + (1.0 - _SPREAD_SHARE) * difference_VV


def _ranks(x_KV: Tensor) -> Tensor:
    """Ranks 1..K of each feature's values `[V, K]`; equal values share the mean of theirs."""
    x_VK = x_KV.mT.contiguous()
    sorted_VK = x_VK.sort(dim=1).values
    below_VK, up_to_VK = (torch.searchsorted(sorted_VK, x_VK, right=right) for right in (False, True))
    return (below_VK + up_to_VK + 1).double() / 2


def _path_weights(graph_VV: Tensor) -> Tensor:
    """Row sums of `(I - r A)^-1 - I`, r = 0.9 / spectral radius."""
    ones_V = torch.ones_like(graph_VV[0])
    vector_V = ones_V
    for _ in range(_ITERATIONS):
        vector_V = functional.normalize(graph_VV @ vector_V, dim=0)
    radius = vector_V @ (graph_VV @ vector_V)
    identity_VV = torch.eye(len(ones_V), dtype=graph_VV.dtype, device=graph_VV.device)
    weights_V: Tensor = torch.linalg.solve(identity_VV - _RADIUS_SHARE / radius * graph_VV, ones_V) - ones_V
    return weights_V

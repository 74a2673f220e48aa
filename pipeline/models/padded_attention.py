"""Attention of rows that lie one behind another and all see one prefix, on a GPU.

In: queries, keys and values of all rows, keys and values of the prefix.  Out: what attention gives each row behind the
prefix.

A GPU computes many short rows in one call at the price of their number of blocks, but each call costs as much as a
hundred rows: rows are padded to the longest here, and here alone. Behind each padded row lies nothing that it sees.

Shape suffixes: N tokens of all rows, R rows, L the longest one's length, P prefix, H and h heads, W head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right


@dataclass(frozen=True)
class RowPadding:
    """Where tokens stand in rows that are padded to the longest."""

    rows: int
    """R."""
    length: int
    """L."""
    places_N: Tensor
    """Of each token, among the R * L places."""

    def pad(self, x_NHW: Tensor) -> Tensor:
        """Rows as torch's attention has them, `[R, H, L, W]`, with zeros behind each."""
        empty = x_NHW.new_zeros(self.rows * self.length, *x_NHW.shape[1:])
        return empty.index_copy(0, self.places_N, x_NHW).view(self.rows, self.length, *x_NHW.shape[1:]).transpose(1, 2)

    def unpad(self, x_RHLW: Tensor) -> Tensor:
        """Tokens one behind another, `[N, H, W]`."""
        return x_RHLW.transpose(1, 2).flatten(0, 1).index_select(0, self.places_N)


def padded_rows_attention(
    q_1HNW: Tensor,
    k_1hNW: Tensor,
    v_1hNW: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    padding: RowPadding,
    scale: float,
) -> Tensor:
    """Causal attention within each row and to the whole of the prefix's keys and values `[1, h, P, W]`; `[N, H, W]`.

    Differentiable. Keys and values may have fewer heads h than the H of the queries.
    """
    heads = q_1HNW.shape[1], k_1hNW.shape[1], v_1hNW.shape[1]
    # One move for all three.
    together_NAW = torch.cat([x[0].transpose(0, 1) for x in (q_1HNW, k_1hNW, v_1hNW)], dim=1)
    q, k, v = padding.pad(together_NAW).split(heads, dim=1)
    if prefix is not None:
        k, v = (torch.cat([x.expand(padding.rows, -1, -1, -1), y], dim=2) for x, y in zip(prefix, (k, v), strict=True))
    # The last query sees all keys. Its kernels for half precision read keys and values of fewer heads as they are.
    mask = causal_lower_right(padding.length, k.shape[2])
    output = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return padding.unpad(output)

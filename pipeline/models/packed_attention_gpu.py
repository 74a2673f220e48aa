"""Attention of rows that lie one behind another and all see one prefix, on a GPU.

In: queries, keys and values of all rows, keys and values of the prefix.  Out: what attention gives each row behind the
prefix, and its gradient.

A GPU attends all rows in one call. In half precision it is FlashAttention for sequences of any lengths, whose kernels
read and write rows where they are; the prefix is put in front of each row's keys and values. Elsewhere rows are padded
to the longest, here and here alone: behind each padded row lies nothing that it sees.

Shape suffixes: N tokens of all rows, R rows, L the longest one's length, P prefix, M tokens of all rows with the prefix
in front of each, H and h heads, W head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.row_layout import RowLayout

_attend = torch.ops.aten._flash_attention_forward
_WIDEST = 192
"""Head width up to which FlashAttention's backward pass runs on every card that has it."""

Prefix = tuple[Tensor, Tensor] | None


def gpu_rows_attention(
    q_1HNW: Tensor, k_1hNW: Tensor, v_1hNW: Tensor, prefix: Prefix, layout: RowLayout, scale: float
) -> Tensor:
    """Causal attention within each row and to the whole of the prefix's keys and values `[1, h, P, W]`; `[N, H, W]`.

    Differentiable in the rows. Keys and values may have fewer heads h than the H of the queries.
    """
    half, width = q_1HNW.dtype in (torch.float16, torch.bfloat16), q_1HNW.shape[-1]
    if layout.flash and half and width % 8 == 0 and width <= _WIDEST:
        return flash_rows_attention(q_1HNW, k_1hNW, v_1hNW, prefix, layout, scale)
    return padded_rows_attention(q_1HNW, k_1hNW, v_1hNW, prefix, layout, scale)


def padded_rows_attention(
    q_1HNW: Tensor, k_1hNW: Tensor, v_1hNW: Tensor, prefix: Prefix, layout: RowLayout, scale: float
) -> Tensor:
    """`gpu_rows_attention` of any precision, on any device."""
    heads = q_1HNW.shape[1], k_1hNW.shape[1], v_1hNW.shape[1]
    # One move for all three.
    together_NAW = torch.cat([x[0].transpose(0, 1) for x in (q_1HNW, k_1hNW, v_1hNW)], dim=1)
    q, k, v = layout.pad(together_NAW).split(heads, dim=1)
    if prefix is not None:
        k, v = (torch.cat([x.expand(layout.rows, -1, -1, -1), y], dim=2) for x, y in zip(prefix, (k, v), strict=True))
    seen_LK = torch.ones(layout.longest, k.shape[2], dtype=torch.bool, device=k.device).tril(layout.prefix)
    output = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen_LK, scale=scale, enable_gqa=True)
    return layout.unpad(output)


def flash_rows_attention(
    q_1HNW: Tensor, k_1hNW: Tensor, v_1hNW: Tensor, prefix: Prefix, layout: RowLayout, scale: float
) -> Tensor:
    """`gpu_rows_attention` in half precision, by FlashAttention (Dao 2023).

    Its causal mask is aligned to the last query and key: a row's tokens see all of the prefix in front of them.
    """
    q, k, v = (x[0].transpose(0, 1) for x in (q_1HNW, k_1hNW, v_1hNW))
    if prefix is not None:
        # The prefix a row, and the row's own over what stands behind it: no gradient is gathered for the prefix.
        fronts = (front[0].transpose(0, 1).index_select(0, layout.front_M) for front in prefix)
        k, v = (front.index_copy(0, layout.behind_N, own) for front, own in zip(fronts, (k, v), strict=True))
    starts, starts_behind = layout.starts
    lengths = layout.longest, layout.longest + layout.prefix
    output: Tensor = _attend(q, k, v, starts, starts_behind, *lengths, 0.0, True, False, scale=scale)[0]
    return output

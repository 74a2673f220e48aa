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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from pipeline.transfer import to_device

_attend = torch.ops.aten._flash_attention_forward
_attend_backward = torch.ops.aten._flash_attention_backward

Prefix = tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class RowLayout:
    """Where the tokens of rows are, and where they go."""

    rows: int
    """R."""
    longest: int
    """L."""
    prefix: int
    """P."""
    positions_N: Tensor
    """Position of each token behind the prefix."""
    places_N: Tensor
    """Place of each token among the R * L of rows padded to the longest."""
    behind_N: Tensor
    """Place of each token among the M of rows with the prefix in front."""
    gathered_M: Tensor
    """Which token stands at each of those M places, counted behind the P of the prefix."""
    starts: Tensor
    """Where each row starts among the N, and where the last one ends, `[R + 1]`; among the M in a second line."""

    @classmethod
    def of(cls, lengths: Sequence[int], prefix: int, device: torch.device) -> RowLayout:
        """Rows of these lengths one behind another; handed over to `device` in one copy."""
        lengths_R = np.asarray(lengths, dtype=np.int64)
        rows, longest, tokens = len(lengths_R), int(lengths_R.max()), int(lengths_R.sum())
        starts_R = lengths_R.cumsum() - lengths_R
        row_N = np.repeat(np.arange(rows), lengths_R)
        within_N = np.arange(tokens) - starts_R[row_N]
        behind_N = np.arange(tokens) + prefix * (row_N + 1)
        gathered_M = np.tile(np.arange(prefix), rows)
        gathered_M = np.insert(gathered_M, prefix * (row_N + 1), prefix + np.arange(tokens))
        ends = np.append(starts_R, tokens)
        parts = [within_N + prefix, row_N * longest + within_N, behind_N, gathered_M]
        parts += [ends, ends + prefix * np.arange(rows + 1)]
        numbers = to_device(torch.from_numpy(np.concatenate(parts)), device)
        positions, places, behind, gathered, *starts = numbers.split([len(part) for part in parts])
        return cls(rows, longest, prefix, positions, places, behind, gathered, torch.stack(starts).int())

    def pad(self, x_NHW: Tensor) -> Tensor:
        """Rows as torch's attention has them, `[R, H, L, W]`, with zeros behind each."""
        empty = x_NHW.new_zeros(self.rows * self.longest, *x_NHW.shape[1:])
        padded: Tensor = empty.index_copy(0, self.places_N, x_NHW).unflatten(0, (self.rows, self.longest))
        return padded.transpose(1, 2)

    def unpad(self, x_RHLW: Tensor) -> Tensor:
        """Tokens one behind another, `[N, H, W]`."""
        tokens: Tensor = x_RHLW.transpose(1, 2).flatten(0, 1)
        return tokens.index_select(0, self.places_N)


def gpu_rows_attention(
    q_1HNW: Tensor, k_1hNW: Tensor, v_1hNW: Tensor, prefix: Prefix, layout: RowLayout, scale: float
) -> Tensor:
    """Causal attention within each row and to the whole of the prefix's keys and values `[1, h, P, W]`; `[N, H, W]`.

    Differentiable in the rows. Keys and values may have fewer heads h than the H of the queries.
    """
    half = q_1HNW.dtype in (torch.float16, torch.bfloat16)
    if half and torch.cuda.get_device_capability(q_1HNW.device) >= (8, 0):
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
    mask = causal_lower_right(layout.longest, k.shape[2])  # the last query sees all keys
    return layout.unpad(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True))


def flash_rows_attention(
    q_1HNW: Tensor, k_1hNW: Tensor, v_1hNW: Tensor, prefix: Prefix, layout: RowLayout, scale: float
) -> Tensor:
    """`gpu_rows_attention` in half precision, by FlashAttention (Dao 2023)."""
    rows = (x[0].transpose(0, 1) for x in (q_1HNW, k_1hNW, v_1hNW))
    result: Tensor = _FlashRows.apply(*rows, prefix, layout, scale)  # type: ignore[no-untyped-call]
    return result


class _FlashRows(torch.autograd.Function):
    """Causal masks are aligned to the last query and key: a row's tokens see all of the prefix in front of them."""

    @staticmethod
    def forward(
        ctx: Any, q_NHW: Tensor, k_NhW: Tensor, v_NhW: Tensor, prefix: Prefix, layout: RowLayout, scale: float
    ) -> Tensor:
        if prefix is not None:
            k_NhW, v_NhW = (
                torch.cat([front[0].transpose(0, 1), own]).index_select(0, layout.gathered_M)
                for front, own in zip(prefix, (k_NhW, v_NhW), strict=True)
            )
        lengths = (*layout.starts, layout.longest, layout.longest + layout.prefix)
        out_NHW: Tensor
        out_NHW, log_sum, *random, _ = _attend(q_NHW, k_NhW, v_NhW, *lengths, 0.0, True, False, scale=scale)
        ctx.save_for_backward(q_NHW, k_NhW, v_NhW, out_NHW, log_sum, *random)
        ctx.layout, ctx.lengths, ctx.scale = layout, lengths, scale
        return out_NHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NHW: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, random, unused = ctx.saved_tensors
        options = (0.0, True, random, unused)
        q, k, v = _attend_backward(gradient_NHW.contiguous(), *tensors, *ctx.lengths, *options, scale=ctx.scale)
        if ctx.layout.prefix:
            k, v = (x.index_select(0, ctx.layout.behind_N) for x in (k, v))
        return q, k, v, None, None, None

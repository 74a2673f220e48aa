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

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.transfer import to_device

_attend = torch.ops.aten._flash_attention_forward

Prefix = tuple[Tensor, Tensor] | None


@dataclass(eq=False)  # not frozen: torch.compile looks into what is, and would compile each set of lengths anew
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
    front_M: Tensor
    """Which token of the prefix stands at each of those M places; any where a row's own does."""
    starts: Tensor
    """Where each row starts among the N, and where the last one ends, `[R + 1]`; among the M in a second line."""
    flash: bool
    """Whether the device has FlashAttention's kernels."""

    @classmethod
    def of(cls, lengths: Sequence[int], prefix: int, device: torch.device) -> RowLayout:
        """Rows of these lengths one behind another; handed over to `device` in one copy."""
        lengths_R = np.asarray(lengths, dtype=np.int64)
        rows, longest, tokens = len(lengths_R), int(lengths_R.max()), int(lengths_R.sum())
        starts_R = lengths_R.cumsum() - lengths_R
        row_N = np.repeat(np.arange(rows), lengths_R)
        within_N = np.arange(tokens) - starts_R[row_N]
        behind_N = np.arange(tokens) + prefix * (row_N + 1)
        front_M = np.zeros(tokens + prefix * rows, dtype=np.int64)
        front_M[(starts_R + prefix * np.arange(rows))[:, None] + np.arange(prefix)] = np.arange(prefix)
        ends = np.append(starts_R, tokens)
        parts = [within_N + prefix, row_N * longest + within_N, behind_N, front_M]
        parts += [ends, ends + prefix * np.arange(rows + 1)]
        flash = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        numbers = to_device(torch.from_numpy(np.concatenate(parts)), device)
        positions, places, behind, front, *starts = numbers.split([len(part) for part in parts])
        return cls(rows, longest, prefix, positions, places, behind, front, torch.stack(starts).int(), flash)

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
    if layout.flash and q_1HNW.dtype in (torch.float16, torch.bfloat16):
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

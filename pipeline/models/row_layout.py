"""Where the tokens of rows of any lengths are: one behind another, padded, or behind a prefix each.

In: lengths.  Out: indices, on the device where they are used.

Shape suffixes: N tokens of all rows, R rows, L the longest one's length, P prefix, M tokens of all rows with the prefix
in front of each, H heads, W head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.transfer import to_device

Counts = npt.NDArray[np.int64]


def within_and_row(lengths: Sequence[int] | Counts) -> tuple[Counts, Counts]:
    """Of each token of rows one behind another: its number in its row, and its row's number; `[N]` each."""
    lengths_R = np.asarray(lengths, dtype=np.int64)
    row_N = np.repeat(np.arange(len(lengths_R)), lengths_R)
    return np.arange(len(row_N)) - np.repeat(lengths_R.cumsum() - lengths_R, lengths_R), row_N


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
        within_N, row_N = within_and_row(lengths)
        rows, longest, tokens = len(lengths), int(max(lengths)), len(row_N)
        ends = np.append(0, np.cumsum(lengths))
        ends_behind = ends + prefix * np.arange(rows + 1)
        front_M = np.zeros(tokens + prefix * rows, dtype=np.int64)
        front_M[ends_behind[:-1, None] + np.arange(prefix)] = np.arange(prefix)
        behind_N = np.arange(tokens) + prefix * (row_N + 1)
        parts = [within_N + prefix, row_N * longest + within_N, behind_N, front_M, ends, ends_behind]
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

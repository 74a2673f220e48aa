"""Dropout that belongs to the items of a step, not to the worker that computes them.

In: the items' numbers.  Out: masks to multiply with; the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.episodes.sampler import philox

_DROPOUT_STREAM = 3


class KeepMasks:
    """Draws the factors of a dropout: `shape` values an item, each a pure function of (seed, step, slot)."""

    def __init__(self, shape: tuple[int, ...], dropout: float, *, seed: int) -> None:
        self._shape, self._dropout, self._seed = shape, dropout, seed

    def draw(self, step: int, slots: Sequence[int], device: torch.device | str) -> Tensor | None:
        """`[len(slots), *shape]`: 0 with probability `dropout`, else `1 / (1 - dropout)`; None without dropout."""
        if not self._dropout:
            return None
        keys = [(self._seed, _DROPOUT_STREAM, step, slot) for slot in slots]
        drawn = np.stack([philox(*key).random(self._shape, dtype=np.float32) for key in keys])
        kept = torch.from_numpy(drawn >= self._dropout)
        return kept.to(device).float() / max(1.0 - self._dropout, torch.finfo(torch.float32).tiny)

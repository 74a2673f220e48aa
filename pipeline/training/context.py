"""What the loop knows of the world: ranks and means over them.

`LocalContext` is one process; `pipeline.runtime.ray_train` brings the one for Ray Train. Their parity is a test.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class TrainContext(Protocol):
    """Process group of a training run."""

    @property
    def rank(self) -> int:
        """Index of this worker."""

    @property
    def world_size(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> torch.device:
        """Device of this worker's tensors."""

    def mean(self, value: Tensor) -> float:
        """Mean of a scalar over the workers."""

    def barrier(self) -> None:
        """Wait for all workers."""


class LocalContext:
    """A single process."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def mean(self, value: Tensor) -> float:
        """The value itself."""
        return float(value.detach())

    def barrier(self) -> None:
        """Nothing to wait for."""

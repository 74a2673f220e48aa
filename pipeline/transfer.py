"""Numbers made on the CPU, brought to where they are needed."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """The same numbers on `device`. A GPU is not waited for: the copy takes its turn behind what it has to do."""
    return x.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else x.to(device)

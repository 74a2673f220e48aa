"""Numbers made on the CPU, brought to where they are needed."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """The same numbers on `device`. A GPU is not waited for: the copy takes its turn behind what it has to do."""
    device = torch.device(device)
    if device.type != "cuda":
        return x.to(device)
    # A thread's own device is the first one, whichever the process works on: pinning would reserve memory there.
    with torch.cuda.device(device):
        return x.pin_memory().to(device, non_blocking=True)

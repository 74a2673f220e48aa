"""The training loop and the file format that all models of the miniature suite share.

In: a model and a function that gives the loss of a step.  Out: a trained model, saved by `save_pretrained` in float16.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.encoders.folder import write_checksums

WEIGHTS = Path(__file__).parent / "weights"
"""Where the committed models lie, one folder each."""


def fit(
    modules: Iterable[nn.Module],
    loss_of_step: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
) -> None:
    """AdamW with linear warm-up over a twentieth of the steps and cosine decay to zero."""
    parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    warmup = max(steps // 20, 1)
    for step in range(steps):
        progress = min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * progress
        loss = loss_of_step(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def save_model(folder: Path, model: Any, *preprocessors: Any) -> None:
    """Write a model and what prepares its input as a user would find them on the hub; weights in float16."""
    shutil.rmtree(folder, ignore_errors=True)
    model.half().save_pretrained(folder)
    model.float()
    for preprocessor in preprocessors:
        preprocessor.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    write_checksums(folder)

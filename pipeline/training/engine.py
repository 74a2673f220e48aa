"""Engines: who owns the optimiser. `LocalEngine` is plain torch; DeepSpeed's lives in `pipeline.runtime`.

An engine's state is consolidated: full tensors by parameter name, whatever the number of workers or the ZeRO stage, so
that a checkpoint loads on any of them. Only trainable parameters are in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state tensors, named as torch and DeepSpeed name them."""


class Engine(Protocol):
    """Runs backward passes and updates of one module."""

    @property
    def module(self) -> nn.Module:
        """Called for the forward pass."""

    def backward(self, loss: Tensor, *, parts: int = 1) -> None:
        """Add the gradients of one of an update's `parts` equal parts, whose losses are averaged."""

    def step(self, learning_rate: float) -> float:
        """Clip the gradients of all parts and make one AdamW update; returns their norm before clipping."""

    def update(self, loss: Tensor, learning_rate: float) -> float:
        """An update in one part: `backward` and `step`."""

    def state(self) -> dict[str, Tensor]:
        """`weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, float32 on the CPU. Collective: every worker calls it."""

    def load_state(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Continue from a state after `updates` updates. Collective."""


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters with gradients, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def learning_rate(step: int, config: OptimConfig) -> float:
    """Linear warm-up to the peak, then cosine decay to zero at `config.steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def check_state(state: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raise unless `state` fits `parameters` name by name and shape by shape."""
    got = {key.removeprefix("weight/"): tuple(value.shape) for key, value in state.items() if key.startswith("weight/")}
    wanted = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    for name in sorted(got.keys() | wanted.keys()):
        if got.get(name) != wanted.get(name):
            raise ValueError(
                f"checkpoint does not fit the model: {name!r} is {got.get(name, 'absent')} in the checkpoint and "
                f"{wanted.get(name, 'absent')} in the model; use the configuration it was trained with"
            )


class LocalEngine:
    """Plain torch AdamW in one process."""

    def __init__(self, module: nn.Module, config: OptimConfig) -> None:
        self.module = module
        self._config = config
        self._parameters = trainable_parameters(module)
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over the weights instead of ten
        )

    def backward(self, loss: Tensor, *, parts: int = 1) -> None:
        """Add the gradients of one part."""
        (loss / parts).backward()

    def step(self, learning_rate: float) -> float:
        """Clipping and one update; the gradients are dropped."""
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._config.clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def update(self, loss: Tensor, learning_rate: float) -> float:
        """`backward` and `step`."""
        self.backward(loss)
        return self.step(learning_rate)

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by parameter name."""
        result = {f"weight/{name}": value.detach().cpu().clone() for name, value in self._parameters.items()}
        for name, parameter in self._parameters.items():
            slots = self._optimizer.state.get(parameter, {})
            for moment in MOMENTS:
                tensor = slots.get(moment, torch.zeros_like(parameter))
                result[f"{moment}/{name}"] = tensor.detach().cpu().clone()
        return result

    def load_state(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Continue from a consolidated state."""
        check_state(state, self._parameters)
        for name, parameter in self._parameters.items():
            with torch.no_grad():
                parameter.copy_(state[f"weight/{name}"])
            slots = {moment: state[f"{moment}/{name}"].to(parameter).clone() for moment in MOMENTS}
            step = torch.tensor(float(updates), device=parameter.device)
            self._optimizer.state[parameter] = {"step": step, **slots}

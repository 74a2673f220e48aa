"""DeepSpeed behind the `training.engine.Engine` interface.

In: a module whose trainable parameters are float32 and an initialised process group.
Out: ZeRO-partitioned updates with the same arithmetic as `LocalEngine`, and a consolidated state: full tensors by
parameter name, so that a checkpoint does not depend on the number of workers (DeepSpeed's own ZeRO shards do).

The frozen LLM stays outside the wrapped module: it is never saved, and only stage 3 partitions it (`partitioned_llm`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimConfig
from pipeline.models.hypernet.generator import Generator
from pipeline.training.engine import MOMENTS, check_state, trainable_parameters

_BUCKET = 1_000_000
"""Elements reduced at a time. DeepSpeed's own 5e8 would have it allocate 2 GB each update, and copy all gradients there
and once more to a contiguous buffer; with small ones a large gradient is reduced where it lies."""


class DeepSpeedEngine:
    """ZeRO over the current process group.

    Stages 1 and 2 partition the optimiser's state and the gradients of the trainable part. Stage 3 is stage 2 for it:
    its weights are small, and it is the frozen LLM that `partitioned_llm` partitions. A single worker has nothing to
    partition, so that it runs stage 0 and is spared the flat copies, unless the optimiser is offloaded.
    """

    def __init__(
        self, module: nn.Module, config: OptimConfig, *, zero_stage: int, offload_optimizer: bool = False
    ) -> None:
        _check_served(zero_stage, offload_optimizer)
        deepspeed = import_deepspeed()
        self._config = config
        self._parameters = trainable_parameters(module)
        self._alone = torch.distributed.get_world_size() == 1 and not offload_optimizer
        self._stage = 0 if self._alone else min(zero_stage, 2)
        self._engine: Any
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=module,
            model_parameters=list(self._parameters.values()),
            config=engine_config(config, self._stage, offload_optimizer=offload_optimizer),
            dist_init_required=False,
        )
        self._base_optimizer: Any = self._optimizer.optimizer if self._stage else self._optimizer
        self._parts_done = 0
        # Stage 0 averages gradients here, and generators' own backward passes do: a tenth of DeepSpeed's traffic.
        self._shares = self._stage == 0 and not self._alone
        self._apart: list[nn.Parameter] = share_generators(module, self._parameters) if self._shares else []
        self._materialise_moments()

    @property
    def module(self) -> nn.Module:
        """The wrapped module; calling it goes through DeepSpeed's hooks."""
        engine: nn.Module = self._engine
        return engine

    def backward(self, loss: Tensor, *, parts: int = 1) -> None:
        """Add one part's gradients; with the last part they are averaged over the workers."""
        self._parts_done += 1
        self._engine.set_gradient_accumulation_boundary(self._parts_done == parts)
        with self._engine.no_sync() if self._stage == 0 else nullcontext():
            self._engine.backward(loss / parts)
        if self._shares and self._parts_done == parts:
            average_gradients(self._apart)

    def step(self, learning_rate: float) -> float:
        """Clipping and one update."""
        self._parts_done = 0
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        # Stage 0 has whole, averaged gradients; DeepSpeed would clip them without saying from which norm.
        norm = None if self._stage else nn.utils.clip_grad_norm_(self._parameters.values(), self._config.clip_norm)
        self._engine.step()
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    def update(self, loss: Tensor, learning_rate: float) -> float:
        """`backward` and `step`."""
        self.backward(loss)
        return self.step(learning_rate)

    def state(self) -> dict[str, Tensor]:
        """Gather weights and moments; collective."""
        result: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            # Trainables are float32, so the module's copy is the master's: stages 0-2 keep it whole on every worker.
            result[f"weight/{name}"] = parameter.detach().cpu().clone()
            for moment in MOMENTS:
                result[f"{moment}/{name}"] = self._moment(parameter, moment).cpu().clone().view(parameter.shape)
        return result

    def load_state(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Scatter weights and moments into the partitions and set Adam's step count."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        check_state(state, self._parameters)
        for flat, slots in self._base_optimizer.state.items():
            slots["step"] = torch.tensor(float(updates), device=flat.device)
        for name, parameter in self._parameters.items():
            with torch.no_grad():
                parameter.copy_(state[f"weight/{name}"])
            for moment in MOMENTS:
                value = state[f"{moment}/{name}"].to(parameter.device)
                if self._stage:
                    safe_set_full_optimizer_state(parameter, value, moment)
                else:
                    self._base_optimizer.state[parameter][moment].copy_(value)
            if self._stage:
                safe_set_full_fp32_param(parameter, state[f"weight/{name}"].to(parameter.device))

    def _moment(self, parameter: nn.Parameter, moment: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if self._stage:
            value = safe_get_full_optimizer_state(parameter, moment)
        else:
            value = self._base_optimizer.state[parameter][moment]
        result: Tensor = value.detach()
        return result

    def _materialise_moments(self) -> None:
        """Create each flat partition's moments, as AdamW's first step would: else there is nothing to read or set."""
        for group in self._base_optimizer.param_groups:
            for flat in group["params"]:
                slots = self._base_optimizer.state[flat]
                slots["step"] = torch.tensor(0.0, device=flat.device)
                for moment in MOMENTS:
                    slots[moment] = torch.zeros_like(flat)
        if self._stage:
            # Views of the moments by parameter; DeepSpeed itself makes them after the first step.
            self._optimizer._lazy_init_hp_params_optimizer_state()


def share_generators(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """Let generators share their gradients by factors; returns the parameters that are left to average."""
    generators = [layer for layer in module.modules() if isinstance(layer, Generator)]
    for layer in generators:
        layer.shares_gradients = True
    done = {id(parameter) for layer in generators for parameter in layer.parameters()}
    return [parameter for parameter in parameters.values() if id(parameter) not in done]


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average gradients over the workers: large ones where they lie, small ones together; a missing one is zero."""
    world = torch.distributed.get_world_size()
    for parameter in parameters:
        if parameter.grad is None:  # unused on this worker, maybe not on another
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    small = [gradient for gradient in gradients if gradient.numel() < _BUCKET]
    together = torch.cat([gradient.flatten() for gradient in small]) if small else None
    tensors = [gradient for gradient in gradients if gradient.numel() >= _BUCKET]
    tensors += [] if together is None else [together]
    for work in [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
        work.wait()
    for tensor in tensors:
        tensor.div_(world)
    if together is not None:
        for gradient, mean in zip(small, together.split([item.numel() for item in small]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def engine_config(config: OptimConfig, stage: int, *, offload_optimizer: bool = False) -> dict[str, Any]:
    """DeepSpeed's configuration. `torch_adam`: no JIT compilation, no compiler needed on a worker."""
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": _BUCKET, "contiguous_gradients": False}
    if offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.clip_norm if stage else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "torch_adam": True,
                "fused": True,  # one pass over the weights instead of ten
                "lr": config.learning_rate,
                "betas": list(config.betas),
                "weight_decay": config.weight_decay,
            },
        },
        "steps_per_print": 2**31 - 1,
        "timers": {"throughput": {"enabled": False}},
    }


def _check_served(zero_stage: int, offload_optimizer: bool) -> None:
    if zero_stage not in (0, 1, 2, 3):
        raise ValueError(f"runtime.zero_stage={zero_stage}: this engine serves 0, 1, 2 and 3")
    if offload_optimizer and not zero_stage:
        raise ValueError(
            "runtime.offload_optimizer=True needs runtime.zero_stage 1, 2 or 3, got 0: raise it or switch offload off"
        )


def import_deepspeed() -> Any:
    """DeepSpeed, kept from compiling operators and from logging."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # Probing this operator would compile it: close to a minute on a CPU worker, and a compiler must be there.
    __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed

"""DeepSpeed behind the `training.engine.Engine` interface.

In: a module whose trainable parameters are float32 and an initialised process group.
Out: ZeRO-partitioned updates with the same arithmetic as `LocalEngine`, and a consolidated state: full tensors by
parameter name, so that a checkpoint does not depend on the number of workers (DeepSpeed's own ZeRO shards do).

The frozen LLM stays outside the wrapped module: it is neither partitioned nor saved.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimConfig
from pipeline.training.engine import MOMENTS, check_state, trainable_parameters


class DeepSpeedEngine:
    """ZeRO stage 0, 1 or 2 over the current process group."""

    def __init__(self, module: nn.Module, config: OptimConfig, *, zero_stage: int) -> None:
        if zero_stage not in (0, 1, 2):
            raise ValueError(
                f"runtime.zero_stage={zero_stage}: this engine serves 0, 1 and 2 (the trainable part is small and the "
                "frozen LLM lies outside the engine)"
            )
        deepspeed = _import_deepspeed()
        self._parameters = trainable_parameters(module)
        self._engine: Any
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=module,
            model_parameters=list(self._parameters.values()),
            config=engine_config(config, zero_stage),
            dist_init_required=False,
        )
        self._zero_stage = zero_stage
        self._base_optimizer: Any = self._optimizer.optimizer if zero_stage else self._optimizer

    @property
    def module(self) -> nn.Module:
        """The wrapped module; calling it goes through DeepSpeed's hooks."""
        engine: nn.Module = self._engine
        return engine

    def update(self, loss: Tensor, learning_rate: float) -> float:
        """Backward pass (gradients are averaged over the workers), clipping and one update."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.backward(loss)
        norm = self._plain_norm()
        self._engine.step()
        return norm if norm is not None else float(self._engine.get_global_grad_norm())

    def _plain_norm(self) -> float | None:
        """Stage 0 keeps whole, averaged gradients and reports no norm; the other stages report one after the step."""
        if self._zero_stage:
            return None
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

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
        self._materialise_moments(updates)
        for name, parameter in self._parameters.items():
            with torch.no_grad():
                parameter.copy_(state[f"weight/{name}"])
            for moment in MOMENTS:
                value = state[f"{moment}/{name}"].to(parameter.device)
                if self._zero_stage:
                    safe_set_full_optimizer_state(parameter, value, moment)
                else:
                    self._base_optimizer.state[parameter][moment].copy_(value)
            if self._zero_stage:
                safe_set_full_fp32_param(parameter, state[f"weight/{name}"].to(parameter.device))

    def _moment(self, parameter: nn.Parameter, moment: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if self._zero_stage:
            value = safe_get_full_optimizer_state(parameter, moment)
        else:
            value = self._base_optimizer.state.get(parameter, {}).get(moment)
        result: Tensor = torch.zeros_like(parameter) if value is None else value
        return result.detach()

    def _materialise_moments(self, updates: int) -> None:
        """Create each flat partition's moments, as AdamW's first step would: else there is nothing to set."""
        for group in self._base_optimizer.param_groups:
            for flat in group["params"]:
                slots = self._base_optimizer.state[flat]
                slots["step"] = torch.tensor(float(updates))
                for moment in MOMENTS:
                    slots[moment] = torch.zeros_like(flat)
        if self._zero_stage:
            # Views of the moments by parameter; DeepSpeed itself makes them after the first step.
            self._optimizer._lazy_init_hp_params_optimizer_state()


def engine_config(config: OptimConfig, zero_stage: int) -> dict[str, Any]:
    """DeepSpeed's configuration. `torch_adam`: no JIT compilation, no compiler needed on a worker."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.clip_norm,
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "torch_adam": True,
                "lr": config.learning_rate,
                "betas": list(config.betas),
                "weight_decay": config.weight_decay,
            },
        },
        "steps_per_print": 2**31 - 1,
    }


def _import_deepspeed() -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # Probing this operator would compile it: close to a minute on a CPU worker, and a compiler must be there.
    __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed

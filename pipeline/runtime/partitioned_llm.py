"""A frozen LLM whose weights are spread over the workers (ZeRO-3), for one that a single device cannot hold.

In: the configuration of the LLM and an initialised process group.
Out: a `FrozenLLM` of which every worker holds its share; a layer's weights are gathered when the forward or the
backward pass reaches the layer, and freed after it. They have no gradients and no optimiser.

Gathering is collective: all workers must run the same number of forward passes, in the same order, hence
`agree_on_forwards`. DeepSpeed puts its own `torch.nn.functional.linear` in place for the whole process, which computes
the same and does not keep gathered weights alive between the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from pipeline.config.schema import LLMConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.runtime.deepspeed_engine import import_deepspeed

_KEPT_WHOLE = 100_000
"""Weights up to this many elements (norms, biases) stay gathered: their traffic would cost more than their memory."""


class PartitionedLLM(FrozenLLM):
    """A `FrozenLLM` that no worker holds whole."""

    agree_on_forwards: Callable[[int], int]
    """The largest number of forward passes that a worker asks for; all must run as many."""

    def __init__(
        self, config: LLMConfig, root: Path, *, device: torch.device | str = "cpu", kept_whole: int = _KEPT_WHOLE
    ) -> None:
        deepspeed = import_deepspeed()
        partition = partition_config(config, kept_whole=kept_whole)
        with _born_partitioned(partition):
            super().__init__(config, root, device=device)
        # Without an optimiser this only puts the gathering hooks on the model's layers.
        deepspeed.initialize(model=self.model, config=partition, dist_init_required=False)
        self.model.eval()
        self.agree_on_forwards = self._largest

    def _largest(self, forwards: int) -> int:
        most = torch.tensor(forwards, device=self.model.device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        return int(most)


def partition_config(config: LLMConfig, *, kept_whole: int) -> dict[str, Any]:
    """DeepSpeed's configuration of the LLM; its precision section decides the type of the shards, whatever
    `from_pretrained` is told."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": kept_whole},
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "fp16": {"enabled": config.dtype == "float16"},
        "steps_per_print": 2**31 - 1,
    }


class _Zero3:
    """What transformers asks while it loads a model; its own class for this needs the package accelerate."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def is_zero3(self) -> bool:
        return True


@contextmanager
def _born_partitioned(config: dict[str, Any]) -> Iterator[None]:
    """Models that transformers loads in the block are split tensor by tensor: no worker ever holds a whole one."""
    zero3 = _Zero3(config)  # transformers keeps a weak reference
    set_hf_deepspeed_config(zero3)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()

"""How a frozen LLM's layers and losses run: compiled, or recomputed in the backward pass.

In: a model of `transformers`, a way to wrap a forward.  Out: the same model, which computes the same.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

IGNORED = -100
"""Label of positions that are never scored."""


def token_losses(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    """Cross-entropy of each token, in float32."""
    return functional.cross_entropy(logits_TV.float(), labels_T, ignore_index=IGNORED, reduction="none")


def check_compiler() -> None:
    """Raise where torch could not compile."""
    compilers = [name for name in (os.environ.get("CXX"), os.environ.get("CC"), "g++", "gcc", "clang++") if name]
    if not any(shutil.which(name) for name in compilers):
        raise ValueError(
            f"llm.execution.compile=true: torch.compile needs one of {', '.join(compilers)}, and this worker has none; "
            "install one (apt-get install g++), or set it to false"
        )


def wrap_layers(model: nn.Module, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> int:
    """Wrap each decoder layer's forward; how many there are."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.forward = wrap(layer.forward)
    return len(layers)


def compiled_where_packed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a layer for packed rows in training: one program serves all layers and any number of tokens."""
    compiled = torch.compile(forward, dynamic=True)

    def call(*args: Any, **kwargs: Any) -> Any:
        # A cache differs from layer to layer and call to call: each would be compiled anew.
        wanted = kwargs.get("packing") is not None and torch.is_grad_enabled()
        return (compiled if wanted else forward)(*args, **kwargs)

    return call


def recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Recompute a layer in the backward pass.

    transformers does so in training mode only, which would switch dropout on, and drops the prefix's cache.
    """
    return partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)

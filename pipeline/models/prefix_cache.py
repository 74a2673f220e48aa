"""Keys and values of the prompt's constant prefix, computed once for all rows of all steps.

In: a causal LLM and the prefix's token ids.  Out: a cache that the LLM's forward reads and never changes, or None for
architectures whose state is more than plain keys and values (sliding windows, recurrences): they read the prefix again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class SharedPrefixLayer(DynamicLayer):
    """One layer's prefix `[1, heads, P, head width]`, seen by every row; what follows it is not kept.

    Nothing is stored, so one object serves every forward, and a checkpointed layer may run twice.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The prefix before the given keys and values `[B, heads, T, head width]`."""
        rows = key_states.shape[0]
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2),
        )


@torch.no_grad()
def prefix_cache(model: Any, prefix_P: Tensor) -> Cache | None:
    """The cache of a prefix of at least one token, or None where the model's state is more than keys and values."""
    cache: Any = getattr(model(input_ids=prefix_P.unsqueeze(0), use_cache=True), "past_key_values", None)
    if type(cache) is not DynamicCache:
        return None
    layers = cache.layers
    # Layers that share their keys with others stay empty.
    if any(type(layer) is not DynamicLayer or not layer.is_initialized for layer in layers):
        return None
    return Cache(layers=[SharedPrefixLayer(layer.keys, layer.values) for layer in layers])

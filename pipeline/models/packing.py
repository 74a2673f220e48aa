"""Rows of any lengths in one forward without padding.

In: rows one behind another as a single long row, and how long each is.  Out: what each row's attention gives when the
row is alone with the prefix.

All of a transformer but its attention treats every token by itself, so rows may lie in one sequence `[1, N, D]`: no
padding, no mask, and matrix products as large as one likes. Attention alone has to know the rows; rows of one length
are attended together. An architecture packs if its attention goes through `transformers`' interface, its state is plain
keys and values, and a small trial gives the numbers of rows on their own (`packs`): what a forward does with a sequence
cannot be told from its configuration.

Shape suffixes: N tokens of all rows, R rows of one length, L their length, P prefix, H heads, W head width.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "packed_sdpa"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packing:
    """How many rows of which length follow one another, behind a prefix that each of them sees."""

    runs: tuple[tuple[int, int], ...]
    """(rows R, length L) of each run of rows of one length, in order."""
    prefix: int
    """Length P of the keys and values before those of the rows."""
    device: torch.device

    def inputs(self) -> dict[str, Any]:
        """Arguments of the LLM's forward besides embeddings `[1, N, D]` and cache."""
        positions = [torch.arange(self.prefix, self.prefix + length).repeat(rows) for rows, length in self.runs]
        return {
            "position_ids": torch.cat(positions).unsqueeze(0).to(self.device),
            # A mask that is made already: no N x N one is.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            "packing": self,
        }

    @cached_property
    def masks(self) -> tuple[Tensor | None, ...]:
        """Who sees whom in each run, `[1, 1, L, P + L]`; None for plain causal attention without a prefix."""
        if not self.prefix:
            return (None,) * len(self.runs)
        longest = max(length for _, length in self.runs)
        whole = torch.ones(longest, self.prefix + longest, dtype=torch.bool, device=self.device).tril(self.prefix)
        return tuple(whole[None, None, :length, : self.prefix + length] for _, length in self.runs)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of `transformers`' interface, for rows that lie one behind another.

    Queries `[1, H, N, W]`, keys and values `[1, H', P + N, W]`; returns `[1, N, H, W]`. Without `packing` it is
    `transformers`' own scaled dot-product attention.
    """
    if packing is None:
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result
    prefixes, own = [], []
    for states in (key, value):
        prefix, rows = states.split([packing.prefix, states.shape[2] - packing.prefix], dim=2)
        prefixes.append(prefix)
        own.append(rows)
    sizes = [rows * length for rows, length in packing.runs]
    outputs = []
    for (rows, length), mask, q, k, v in zip(
        packing.runs,
        packing.masks,
        query.split(sizes, dim=2),
        own[0].split(sizes, dim=2),
        own[1].split(sizes, dim=2),
        strict=True,
    ):
        q, k, v = (x[0].unflatten(1, (rows, length)).transpose(0, 1) for x in (q, k, v))
        if packing.prefix:
            k, v = (
                torch.cat([prefix.expand(rows, -1, -1, -1), x], dim=2)
                for prefix, x in zip(prefixes, (k, v), strict=True)
            )
        output, _ = sdpa_attention_forward(module, q, k, v, mask, **options)
        outputs.append(output.flatten(0, 1))
    return torch.cat(outputs).unsqueeze(0), None


AttentionInterface.register(_NAME, packed_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@torch.no_grad()
def packs(model: Any, cache: Cache | None, prefix: int) -> bool:
    """Whether rows in one sequence give what each gives alone; makes the model's attention the packed one if so.

    `cache` holds the keys and values of `prefix` tokens.
    """
    if model.config.get_text_config()._attn_implementation != "sdpa":
        return False
    embeddings: Tensor = model.get_input_embeddings()(_probe(model))
    lengths = (2, 2, 5)
    rows = embeddings.split(lengths)
    alone = [_logits(model, row.unsqueeze(0), cache) for row in rows]
    model.set_attn_implementation(_NAME)
    try:
        packing = Packing(((2, 2), (1, 5)), prefix, embeddings.device)
        together = _logits(model, embeddings.unsqueeze(0), cache, **packing.inputs())
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        _log.debug("%s does not pack rows: %s", type(model).__name__, error)
        together = None
    if together is not None and _agree(together, torch.cat(alone, dim=1)):
        return True
    model.set_attn_implementation("sdpa")
    return False


def _probe(model: Any) -> Tensor:
    embedding = model.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, embedding.num_embeddings, (9,), generator=generator).to(model.device)


def _logits(model: Any, embeddings: Tensor, cache: Cache | None, **inputs: Any) -> Tensor:
    result: Tensor = model(inputs_embeds=embeddings, past_key_values=cache, use_cache=False, **inputs).logits
    return result


def _agree(one: Tensor, other: Tensor) -> bool:
    """Up to rounding; a row that sees another one is off by far more."""
    tolerance = 1e-3 if one.dtype == torch.float32 else 5e-2
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())

"""Rows of any lengths in one forward without padding.

In: rows one behind another as a single long row, and how long each is.  Out: what each row's attention gives when the
row is alone with the prefix.

All of a transformer but its attention treats every token by itself, so rows may lie in one sequence `[1, N, D]`: no
padding, no mask, and matrix products as large as one likes. Attention alone has to know the rows; rows of one length
are attended together. An architecture packs if its attention goes through `transformers`' interface, its state is plain
keys and values, and a small trial gives the numbers of rows on their own (`packs`): what a forward does with a sequence
cannot be told from its configuration.

Shape suffixes: B rows, K tokens of a prompt, D LLM width, T scored caption tokens of all rows; N tokens of all rows,
R rows of one length, L their length, P prefix, H heads, W head width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.models.packed_attention import Runs, packed_rows_attention

_NAME = "packed_sdpa"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packing:
    """How many rows of which length follow one another, behind a prefix that each of them sees.

    The prefix's keys and values do not go through the model's cache, which would copy them in front of the rows.
    """

    runs: Runs
    """(rows R, length L) of each run of rows of one length, in order."""
    prefix: Cache | None
    """Keys and values `[1, H', P, W]` of each layer."""
    device: torch.device

    def inputs(self) -> dict[str, Any]:
        """Arguments of the LLM's forward besides the embeddings `[1, N, D]`."""
        start = 0 if self.prefix is None else self.prefix.get_seq_length()
        positions = [torch.arange(start, start + length).repeat(rows) for rows, length in self.runs]
        return {
            "position_ids": torch.cat(positions).unsqueeze(0).to(self.device),
            # A mask that is made already: no N x N one is.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            "packing": self,
        }


@dataclass(frozen=True)
class PackedRows:
    """Rows of one forward, and where their captions are scored."""

    embeddings_1ND: Tensor
    labels_T: Tensor
    """Caption tokens, row by row in the order of the sequence."""
    kept_T: Tensor
    """Columns that predict them."""
    packing: Packing
    captions: tuple[int, ...]
    """Tokens of a caption in each run."""
    order_B: Tensor
    """Where each given row has come to stand."""

    @property
    def inputs(self) -> dict[str, Any]:
        """Arguments of the LLM's forward."""
        return {"inputs_embeds": self.embeddings_1ND, "logits_to_keep": self.kept_T, **self.packing.inputs()}

    def means(self, losses_T: Tensor) -> Tensor:
        """Mean loss of each caption `[B]`, in the order of the rows given."""
        runs = [(rows, tokens) for (rows, _), tokens in zip(self.packing.runs, self.captions, strict=True)]
        parts = losses_T.split([rows * tokens for rows, tokens in runs])
        means = [part.view(run).mean(dim=1) for part, run in zip(parts, runs, strict=True)]
        return torch.cat(means)[self.order_B]


def pack(prompt_BKD: Tensor, ids: Sequence[Sequence[int]], embed: Any, *, prefix: Cache | None) -> PackedRows:
    """Rows of a prompt (soft tokens included) and a caption `ids` each, those of one length side by side."""
    device, known = prompt_BKD.device, prompt_BKD.shape[1]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    groups = [(length, list(rows)) for length, rows in groupby(order, key=lambda row: len(ids[row]))]
    # The last caption token is only predicted, never read: it needs no column of its own. One call for all rows: a
    # partitioned LLM gathers its embeddings at each, and workers have to agree on how often.
    read_ND = embed(torch.tensor([token for row in order for token in ids[row][:-1]], dtype=torch.long, device=device))
    reads = read_ND.split([len(rows) * (length - 1) for length, rows in groups])
    embeddings, labels, kept, runs, start = [], [], [], [], 0
    for (length, rows), read in zip(groups, reads, strict=True):
        read_RTD = read.view(len(rows), length - 1, prompt_BKD.shape[-1])
        embeddings.append(torch.cat([prompt_BKD[rows], read_RTD], dim=1).flatten(0, 1))
        runs.append((len(rows), known + length - 1))
        columns_RL = torch.arange(start, start + len(embeddings[-1]), device=device).view(runs[-1])
        kept.append(columns_RL[:, known - 1 :].flatten())
        labels.append(torch.tensor([ids[row] for row in rows], device=device).flatten())
        start += len(embeddings[-1])
    return PackedRows(
        embeddings_1ND=torch.cat(embeddings).unsqueeze(0),
        labels_T=torch.cat(labels),
        kept_T=torch.cat(kept),
        packing=Packing(tuple(runs), prefix, device),
        captions=tuple(length for length, _ in groups),
        order_B=torch.tensor(order, device=device).argsort(),
    )


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

    Queries `[1, H, N, W]`, keys and values `[1, H', N, W]`; returns `[1, N, H, W]`. Without `packing` it is
    `transformers`' own scaled dot-product attention.
    """
    if packing is None:
        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result
    if not _plain(module, options):
        raise ValueError(f"{type(module).__name__}: attention with {sorted(options)} does not pack rows")
    groups = query.shape[1] // key.shape[1]
    prefix: tuple[Tensor, Tensor] | None = None
    if packing.prefix is not None:
        layer: Any = packing.prefix.layers[module.layer_idx]
        prefix = repeat_kv(layer.keys, groups)[0], repeat_kv(layer.values, groups)[0]
    scale = options.get("scaling")
    output_NHW = packed_rows_attention(
        query[0],
        repeat_kv(key, groups)[0],
        repeat_kv(value, groups)[0],
        prefix,
        packing.runs,
        query.shape[-1] ** -0.5 if scale is None else float(scale),
    )
    return output_NHW.unsqueeze(0), None


def _plain(module: Any, options: dict[str, Any]) -> bool:
    """Causal softmax attention with nothing added."""
    causal = options.get("is_causal")
    return (
        bool(getattr(module, "is_causal", True) if causal is None else causal)
        and not options.get("dropout")
        and all(options.get(name) is None for name in ("position_bias", "softcap", "s_aux", "sliding_window"))
    )


AttentionInterface.register(_NAME, packed_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


@torch.no_grad()
def packs(model: Any, prefix: Cache | None) -> bool:
    """Whether rows in one sequence give what each gives alone; makes the model's attention the packed one if so."""
    if model.config.get_text_config()._attn_implementation != "sdpa":
        return False
    embeddings: Tensor = model.get_input_embeddings()(_probe(model))
    lengths = (2, 2, 5)
    rows = embeddings.split(lengths)
    alone = [_logits(model, row.unsqueeze(0), past_key_values=prefix) for row in rows]
    model.set_attn_implementation(_NAME)
    try:
        packing = Packing(((2, 2), (1, 5)), prefix, embeddings.device)
        together = _logits(model, embeddings.unsqueeze(0), **packing.inputs())
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
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


def _logits(model: Any, embeddings: Tensor, **inputs: Any) -> Tensor:
    result: Tensor = model(inputs_embeds=embeddings, use_cache=False, **inputs).logits
    return result


def _agree(one: Tensor, other: Tensor) -> bool:
    """Up to rounding; a row that sees another one is off by far more."""
    tolerance = 1e-3 if one.dtype == torch.float32 else 5e-2
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())

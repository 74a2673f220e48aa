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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.models.packed_attention import Runs, packed_rows_attention
from pipeline.models.packed_attention_gpu import Prefix, gpu_rows_attention
from pipeline.models.row_layout import RowLayout, within_and_row
from pipeline.transfer import to_device

_NAME = "packed_sdpa"
_PREFIX = "packed_prefix"
"""Attribute of attention modules, not an argument: what differs from layer to layer and is no tensor of the module
would be compiled anew for each."""
_PROBE: Runs = ((2, 2), (1, 5))
"""Rows that an architecture is tried on."""
_log = logging.getLogger(__name__)


@dataclass(eq=False)  # not frozen: torch.compile looks into what is, and would compile each set of lengths anew
class Packing:
    """How many rows of which length follow one another, behind a prefix that each of them sees.

    The prefix's keys and values do not go through the model's cache, which would copy them in front of the rows.
    """

    runs: Runs
    """(rows R, length L) of each run of rows of one length, in order."""
    layout: RowLayout
    """Where their tokens are."""
    on_cpu: bool
    """Which attention they have."""

    @classmethod
    def of(cls, runs: Runs, prefix: Cache | None, device: torch.device) -> Packing:
        """Where `runs` of rows lie."""
        lengths = [length for rows, length in runs for _ in range(rows)]
        start = 0 if prefix is None else prefix.get_seq_length()
        return cls(runs, RowLayout.of(lengths, start, device), on_cpu=device.type == "cpu")

    def inputs(self) -> dict[str, Any]:
        """Arguments of the LLM's forward besides the embeddings `[1, N, D]`."""
        positions_N = self.layout.positions_N
        return {
            "position_ids": positions_N.unsqueeze(0),
            # A mask that is made already: no N x N one is.
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=positions_N.device),
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
    cells_T: Tensor
    """Where each caption token stands in the given rows' captions, padded to the longest."""
    captions_B: Tensor
    """Caption tokens of each given row."""

    @property
    def inputs(self) -> dict[str, Any]:
        """Arguments of the LLM's forward."""
        return {"inputs_embeds": self.embeddings_1ND, "logits_to_keep": self.kept_T, **self.packing.inputs()}

    def means(self, losses_T: Tensor) -> Tensor:
        """Mean loss of each caption `[B]`, in the order of the rows given."""
        rows, longest = len(self.captions_B), self.packing.layout.longest
        cells = losses_T.new_zeros(rows * longest).index_copy(0, self.cells_T, losses_T)
        return cells.view(rows, longest).sum(dim=1) / self.captions_B


def pack(
    soft_BSD: Tensor, suffix: Sequence[int], ids: Sequence[Sequence[int]], embed: Any, *, prefix: Cache | None
) -> PackedRows:
    """Rows of soft tokens, a suffix and a caption `ids` each, those of one length side by side."""
    device, (count, soft, _) = soft_BSD.device, soft_BSD.shape
    order_B = np.argsort([len(row) for row in ids], kind="stable")
    captions_B = np.array([len(ids[row]) for row in order_B])
    known = soft + len(suffix)
    # The last caption token is only predicted, never read: it needs no column of its own.
    packing = Packing.of(_runs(known + captions_B - 1), prefix, device)
    within_N, row_N = within_and_row(known + captions_B - 1)
    tokens_N = np.zeros_like(within_N)  # any token stands where soft tokens will
    tokens_N[(within_N >= soft) & (within_N < known)] = np.tile(np.array(suffix, dtype=np.int64), count)
    tokens_N[within_N >= known] = [token for row in order_B for token in ids[row][:-1]]
    labels_T = np.array([token for row in order_B for token in ids[row]])
    kept_T = np.flatnonzero(within_N >= known - 1)
    cells_T = order_B[row_N[kept_T]] * packing.layout.longest + within_N[kept_T] - (known - 1)
    soft_N = np.empty(count * soft, dtype=np.int64)
    soft_N.reshape(count, soft)[order_B] = np.flatnonzero(within_N < soft).reshape(count, soft)
    # One copy to the device, and one call for all embeddings: a partitioned LLM gathers them at each, and workers have
    # to agree on how often.
    parts = [tokens_N, labels_T, kept_T, cells_T, soft_N, captions_B[np.argsort(order_B)]]
    numbers = to_device(torch.from_numpy(np.concatenate(parts)), device)
    tokens, labels, kept, cells, places, captions = numbers.split([len(part) for part in parts])
    embedded_ND = embed(tokens)
    embeddings_ND = embedded_ND.index_copy(0, places, soft_BSD.flatten(0, 1).to(embedded_ND.dtype))
    return PackedRows(embeddings_ND.unsqueeze(0), labels, kept, packing, cells, captions)


def _runs(lengths: Iterable[int]) -> Runs:
    return tuple((len(list(rows)), int(length)) for length, rows in groupby(lengths))


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
    scale = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    attend = _on_cpu if packing.on_cpu else _on_gpu
    return attend(query, key, value, getattr(module, _PREFIX), packing, scale).unsqueeze(0), None


def _on_gpu(q: Tensor, k: Tensor, v: Tensor, prefix: Prefix, packing: Packing, scale: float) -> Tensor:
    return gpu_rows_attention(q, k, v, prefix, packing.layout, scale)


def _on_cpu(q: Tensor, k: Tensor, v: Tensor, prefix: Prefix, packing: Packing, scale: float) -> Tensor:
    return packed_rows_attention(q, k, v, prefix, packing.runs, scale)


# Its loop over runs would be compiled anew for each set of lengths.
_on_cpu = torch.compiler.disable(_on_cpu)


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
    rows = embeddings.split([length for count, length in _PROBE for _ in range(count)])
    alone = [_logits(model, row.unsqueeze(0), past_key_values=prefix) for row in rows]
    model.set_attn_implementation(_NAME)
    for module in model.modules():
        if isinstance(index := getattr(module, "layer_idx", None), int):
            layer: Any = None if prefix is None else prefix.layers[index]
            setattr(module, _PREFIX, None if layer is None else (layer.keys, layer.values))
    try:
        packing = Packing.of(_PROBE, prefix, embeddings.device)
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
    tokens = sum(rows * length for rows, length in _PROBE)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, embedding.num_embeddings, (tokens,), generator=generator).to(model.device)


def _logits(model: Any, embeddings: Tensor, **inputs: Any) -> Tensor:
    result: Tensor = model(inputs_embeds=embeddings, use_cache=False, **inputs).logits
    return result


def _agree(one: Tensor, other: Tensor) -> bool:
    """Up to rounding; a row that sees another one is off by far more."""
    tolerance = 1e-3 if one.dtype == torch.float32 else 5e-2
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())

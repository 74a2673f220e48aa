"""The paper's hypernetwork (METHOD section 1), and the same around a Transformer of several layers.

In: `[prefix_1..prefix_L ; instruction ; e_1, t_1, e_2, t_2, ...]`, all of width H.
Out: one linear generator an adapted layer turns its prefix's output into A, B and bias.

Shape suffixes: N episodes, K pairs, L adapted projector layers, T sequence, Q its first rows, H width, A heads, F width
of a head, I/O layer widths, R rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config.schema import HypernetConfig
from pipeline.episodes.batch import SupportBatch
from pipeline.models.hypernet.base import Hypernet, check_width, hide_text, xavier_generator
from pipeline.models.lora import LinearAdapter
from pipeline.models.projector import Projector


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Sinusoidal positions `[length, width]`, scaled by 1 / sqrt(width) (METHOD section 1)."""
    position_T1 = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    frequency_F = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position_T1 * frequency_F)
    table[:, 1::2] = torch.cos(position_T1 * frequency_F)[:, : width // 2]
    return table / math.sqrt(width)


class SelfAttention(nn.Module):
    """Self-attention without output projection; keys and values see the whole sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x_NTH: Tensor, rows: int) -> Tensor:
        """Outputs of the first `rows` positions, `[N, rows, H]`: only the prefixes' outputs are used.

        A few queries need no keys or values of their own: `q (W_k x + b_k) = (q W_k) x + q b_k`, and the weighted mean
        of `W_v x + b_v` is `W_v` of the weighted mean of x. So the sequence is read twice and never projected, which
        costs 1 / H of forming keys and values.
        """
        q_NQAF = self.q(x_NTH[:, :rows]).unflatten(-1, (self.heads, -1))
        key_AFH, value_AFH = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.k, self.v))
        folded_NQAH = torch.einsum("nqaf,afh->nqah", q_NQAF, key_AFH)
        shift_NQA = (q_NQAF * self.k.bias.unflatten(0, (self.heads, -1))).sum(dim=-1)
        logits_NQAT = (folded_NQAH.flatten(1, 2) @ x_NTH.mT).unflatten(1, (rows, self.heads)) + shift_NQA.unsqueeze(-1)
        # The reference scales by the full width, also with several heads.
        weights_NQAT = torch.softmax(logits_NQAT / math.sqrt(x_NTH.shape[-1]), dim=-1)
        mean_NQAH = (weights_NQAT.flatten(1, 2) @ x_NTH).unflatten(1, (rows, self.heads))
        return torch.einsum("nqah,afh->nqaf", mean_NQAH, value_AFH).flatten(2) + self.v.bias


def _exact_gelu(x: Tensor) -> Tensor:
    """GELU under a name that torch does not know: inference on a GPU goes another way for its own, off by 5e-4.

    That way has the tanh approximation; what is merged has to be what was trained.
    """
    return functional.gelu(x)


class TransformerEncoder(nn.Module):
    """Pre-norm Transformer layers without dropout, so that generated and merged adapters are the same."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"hypernet.layers={layers} must be at least 1 for kind=transformer")
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation=_exact_gelu, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x_NTH: Tensor, rows: int) -> Tensor:
        """Outputs of the first `rows` positions, `[N, rows, H]`."""
        for layer in self.layers:
            x_NTH = layer(x_NTH)
        result: Tensor = self.norm(x_NTH[:, :rows])
        return result


class AttentionHypernet(Hypernet):
    """Self-attention over the support (one layer for kind=attention), linear generators for each projector layer."""

    def __init__(self, config: HypernetConfig, layer_shapes: list[tuple[int, int]]) -> None:
        super().__init__(config, layer_shapes)
        width, rank = config.width, config.rank
        if layer_shapes[0][0] != width:
            raise ValueError(
                f"hypernet.width={width} must equal projector.input_width={layer_shapes[0][0]} for kind={config.kind}: "
                "embeddings and text embeddings stand in one sequence"
            )
        narrowest = min(min(shape) for shape in self.adapted_shapes)
        if rank > narrowest:
            raise ValueError(
                f"hypernet.rank={rank} is above the narrowest width of the projector's adapted layers ({narrowest}): a "
                f"layer has no more directions than that; choose at most {narrowest}"
            )
        self.common_width = width
        self.prefix_tokens = nn.Parameter(torch.empty(len(self.adapted_shapes), width))
        nn.init.xavier_uniform_(self.prefix_tokens)
        self.attention: nn.Module = (
            TransformerEncoder(width, config.heads, config.layers)
            if config.kind == "transformer"
            else SelfAttention(width, config.heads)
        )
        self.generators = nn.ModuleList(
            xavier_generator(width, rank * (i + o) + (o if config.generate_bias else 0)) for i, o in self.adapted_shapes
        )

    def forward(self, support: SupportBatch, projector: Projector) -> list[LinearAdapter | None]:
        """Adapters of the adapted layers; METHOD section 1."""
        width = self.prefix_tokens.shape[1]
        check_width("support embeddings", support.width, width)
        check_width("text embeddings", support.texts_NKW.shape[-1], width)
        n = support.embeddings_NKE.shape[0]
        texts = hide_text(support, visible=self.text_conditioning)
        pairs_NTH = torch.stack([support.embeddings_NKE, texts], dim=2).flatten(1, 2)
        prefixes = self.prefix_tokens.expand(n, -1, -1)
        sequence_NTH = torch.cat([prefixes, support.instructions_NW.unsqueeze(1), pairs_NTH], dim=1)
        sequence_NTH = sequence_NTH + sinusoidal_positions(sequence_NTH.shape[1], width).to(sequence_NTH)
        outputs_NLH = self.attention(sequence_NTH, len(self.adapted_shapes))
        adapters: list[LinearAdapter | None] = [
            self._split(generator(outputs_NLH[:, index]), *shape)
            for index, (generator, shape) in enumerate(zip(self.generators, self.adapted_shapes, strict=True))
        ]
        return adapters + [None] * (len(self.layer_shapes) - len(adapters))

    def _split(self, flat: Tensor, i: int, o: int) -> LinearAdapter:
        a, b, bias = flat.split([i * self.rank, self.rank * o, flat.shape[-1] - self.rank * (i + o)], dim=-1)
        return LinearAdapter(
            a_IR=a.unflatten(-1, (i, self.rank)),
            b_RO=b.unflatten(-1, (self.rank, o)),
            bias_O=bias if self.generate_bias else None,
            scale=self.scale,
        )

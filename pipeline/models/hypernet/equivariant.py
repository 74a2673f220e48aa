"""A hypernetwork that is isometry-equivariant by construction and takes any encoder width (METHOD section 6).

In: support embeddings only through their Gram matrix, and the captions' text embeddings.
Out: a first-layer adapter `A = X^T C` spanned by the support, so that rotating support and queries together changes
nothing; zero-padding the embeddings changes nothing either.

At initialisation the adapter is ridge regression from the (centred) support to text space, restricted to its R leading
principal directions and folded into the projector's first layer. What is learned on top: the penalty, a gain, and a
set transformer over the pairs that corrects the regression targets and proposes biases; each correction starts at zero.
With `layers=0` there is no set transformer: penalty and gain are all that is learned.

Shape suffixes: N episodes, K pairs, E encoder width, W text width, R rank, H set-transformer width, P projector width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config.schema import HypernetConfig
from pipeline.episodes.batch import SupportBatch
from pipeline.models.hypernet.base import Hypernet, check_width, hide_text
from pipeline.models.lora import LinearAdapter
from pipeline.models.projector import Projector

_INITIAL_PENALTY = 1.0
"""Ridge penalty in units of the Gram matrix's mean eigenvalue, before training."""


class _Spectrum(NamedTuple):
    """Leading eigenpairs of the centred Gram matrix; they carry no gradient, since nothing before them is trained."""

    values_NR: Tensor
    vectors_NKR: Tensor
    mean_N1: Tensor


class GramAttention(nn.Module):
    """One pre-norm transformer block over the pairs; attention also sees their cosine similarities."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.similarity_weight_A = nn.Parameter(torch.linspace(0.0, 4.0, heads))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x_NKH: Tensor, cosine_NKK: Tensor) -> Tensor:
        """`[N, K, H]` to `[N, K, H]`; equivariant to permutations of the pairs."""
        q, k, v = self.qkv(self.norm_attention(x_NKH)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias_NAKK = self.similarity_weight_A[:, None, None] * cosine_NKK.unsqueeze(1)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias_NAKK)
        x_NKH = x_NKH + self.out(mixed.transpose(1, 2).flatten(2))
        mlp_NKH: Tensor = self.mlp(self.norm_mlp(x_NKH))
        return x_NKH + mlp_NKH


class EquivariantHypernet(Hypernet):
    """Learned ridge regression to text space as a first-layer adapter."""

    def __init__(self, config: HypernetConfig, layer_shapes: list[tuple[int, int]]) -> None:
        """The adapter maps embeddings to text space, where the projector reads: its input width is the texts'."""
        super().__init__(config, layer_shapes)
        width = config.width
        self.text_width = layer_shapes[0][0]
        self.corrected = config.layers > 0
        if self.corrected:
            self.embed_text = nn.Linear(self.text_width, width)
            self.embed_instruction = nn.Linear(self.text_width, width)
            self.blocks = nn.ModuleList(GramAttention(width, config.heads) for _ in range(config.layers))
            self.norm = nn.LayerNorm(width)
            self.target_correction = _zero_linear(width, self.text_width)
            adapts_bias = config.generate_bias and config.adapted_layers == "all"
            self.bias_correction = _zero_linear(width, layer_shapes[-1][1]) if adapts_bias else None
            self.modulation = _zero_linear(width, 2)
        # One element, not a scalar: DeepSpeed cannot broadcast a tensor without dimensions.
        self.log_penalty = nn.Parameter(torch.full((1,), math.log(_INITIAL_PENALTY)))
        self.log_gain = nn.Parameter(torch.zeros(1))

    def forward(self, support: SupportBatch, projector: Projector) -> list[LinearAdapter | None]:
        """Adapters of N modalities: the first layer's (any width E) and, if biases are generated, the last layer's."""
        check_width("text embeddings", support.texts_NKW.shape[-1], self.text_width)
        texts_NKW = hide_text(support, visible=self.text_conditioning)
        x_mean_N1E = support.embeddings_NKE.mean(dim=1, keepdim=True)
        x_NKE = support.embeddings_NKE - x_mean_N1E
        t_mean_N1W = texts_NKW.mean(dim=1, keepdim=True)
        t_NKW = texts_NKW - t_mean_N1W
        gram_NKK = x_NKE @ x_NKE.mT
        spectrum = self._spectrum(gram_NKK, support.width)
        log_penalty_N1, log_gain_N1 = self.log_penalty.unsqueeze(0), self.log_gain.unsqueeze(0)
        targets_NKW, bias_NO = t_NKW, None
        if self.corrected:
            features_NKH = self._read_pairs(t_NKW, support.instructions_NW, gram_NKK)
            pooled_NH = features_NKH.mean(dim=1)
            targets_NKW = t_NKW + self.target_correction(features_NKH)
            modulation_N2 = self.modulation(pooled_NH)
            log_penalty_N1, log_gain_N1 = log_penalty_N1 + modulation_N2[:, :1], log_gain_N1 + modulation_N2[:, 1:]
            bias_NO = None if self.bias_correction is None else self.bias_correction(pooled_NH)
        penalty_N1 = log_penalty_N1.exp() * spectrum.mean_N1
        gain_N11 = log_gain_N1.exp().unsqueeze(-1)
        a_NER, map_NRW = _principal_ridge(x_NKE, targets_NKW, spectrum, penalty_N1)
        weight_PW = projector.linear_layers[0].weight
        b_NRP = gain_N11 * (map_NRW @ weight_PW.T) / self.scale
        # The affine part of the regression: y = W1 (t_mean + gain * (x - x_mean) A M) + c.
        origin_N1W = t_mean_N1W - gain_N11 * ((x_mean_N1E @ a_NER) @ map_NRW)
        first = LinearAdapter(
            a_IR=a_NER,
            b_RO=b_NRP,
            bias_O=(origin_N1W @ weight_PW.T).squeeze(1),
            scale=self.scale,
            keep_base=False,
        )
        adapters: list[LinearAdapter | None] = [first] + [None] * (len(projector.linear_layers) - 1)
        if bias_NO is not None:
            adapters[-1] = _bias_only(bias_NO, projector.layer_shapes[-1])
        return adapters

    @torch.no_grad()
    def _spectrum(self, gram_NKK: Tensor, width: int) -> _Spectrum:
        values_NK, vectors_NKK = torch.linalg.eigh(gram_NKK)
        rank = min(self.rank, gram_NKK.shape[-1], width)
        mean_N1 = values_NK.mean(dim=1, keepdim=True).clamp_min(torch.finfo(gram_NKK.dtype).tiny)
        return _Spectrum(values_NK[:, -rank:], vectors_NKK[:, :, -rank:], mean_N1)

    def _read_pairs(self, t_NKW: Tensor, instruction_NW: Tensor, gram_NKK: Tensor) -> Tensor:
        norms_NK = gram_NKK.diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()
        cosine_NKK = gram_NKK / (norms_NK.unsqueeze(1) * norms_NK.unsqueeze(2))
        x_NKH = self.embed_text(t_NKW) + self.embed_instruction(instruction_NW).unsqueeze(1)
        for block in self.blocks:
            x_NKH = block(x_NKH, cosine_NKK)
        result: Tensor = self.norm(x_NKH)
        return result


def _principal_ridge(
    x_NKE: Tensor, targets_NKW: Tensor, spectrum: _Spectrum, penalty_N1: Tensor
) -> tuple[Tensor, Tensor]:
    """Ridge regression restricted to the leading principal directions: `A [N, E, R]` and `M [N, R, W]`.

    With the centred Gram matrix's eigenpairs (s, u): A = X^T u / sqrt(s) is orthonormal and M = sqrt(s) / (s + penalty)
    u^T T, so that A M is X^T (X X^T + penalty I)^-1 T on those directions.
    """
    values_NR, vectors_NKR, _ = spectrum
    # Centring makes one eigenvalue zero (more where pairs repeat): such a direction carries nothing and is cut.
    floor_N1 = values_NR[:, -1:] * 1e-5 + torch.finfo(values_NR.dtype).tiny
    alive_NR = (values_NR > floor_N1).to(values_NR.dtype)
    root_NR = values_NR.clamp_min(floor_N1).sqrt()
    a_NER = x_NKE.mT @ (vectors_NKR * (alive_NR / root_NR).unsqueeze(1))
    filter_NR = alive_NR * root_NR / (values_NR.clamp_min(floor_N1) + penalty_N1)
    return a_NER, filter_NR.unsqueeze(-1) * (vectors_NKR.mT @ targets_NKW)


def _bias_only(bias_NO: Tensor, shape: tuple[int, int]) -> LinearAdapter:
    """An adapter that adds a bias and nothing else (rank 0)."""
    n, (i, o) = bias_NO.shape[0], shape
    return LinearAdapter(a_IR=bias_NO.new_zeros(n, i, 0), b_RO=bias_NO.new_zeros(n, 0, o), bias_O=bias_NO)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

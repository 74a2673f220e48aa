"""The shared projector between encoders and the LLM (METHOD section 1).

In: embeddings `[..., B, E]` and, optionally, one `LinearAdapter` a layer.  Out: soft tokens `[..., B, S, D]`.

Shape suffixes: B rows, E input width, P width between the layers, S soft tokens, D LLM width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config.schema import WidthMapKind
from pipeline.models.lora import LinearAdapter, adapted_linear, merge_linear

ProjectorAdapter = Sequence[LinearAdapter | None]
"""One entry a layer, first layer first; None leaves a layer as it is."""


class Projector(nn.Module):
    """`Linear(E, P) -> GELU(tanh) -> dropout -> Linear(P, S * D)`; the paper has P = D and S = 1."""

    def __init__(
        self,
        input_width: int,
        llm_width: int,
        *,
        hidden_width: int | None = None,
        soft_tokens: int,
        dropout: float,
        width_map: WidthMapKind = "orthonormal",
    ) -> None:
        """`width_map` says how encoders of another width are brought to it (`pipeline.episodes.width`)."""
        super().__init__()
        hidden = hidden_width or llm_width
        self.input_width, self.llm_width, self.soft_tokens = input_width, llm_width, soft_tokens
        self.dropout, self.width_map = dropout, width_map
        self.layers = nn.ModuleList([nn.Linear(input_width, hidden), nn.Linear(hidden, soft_tokens * llm_width)])

    @property
    def linear_layers(self) -> list[nn.Linear]:
        """The layers in order."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    @property
    def layer_shapes(self) -> list[tuple[int, int]]:
        """(input, output) width of each layer."""
        return [(layer.in_features, layer.out_features) for layer in self.linear_layers]

    @property
    def inner_width(self) -> int:
        """P."""
        return int(self.linear_layers[0].out_features)

    def forward(self, x_BE: Tensor, adapter: ProjectorAdapter | None = None, keep_BP: Tensor | None = None) -> Tensor:
        """Soft tokens `[..., B, S, D]` of embeddings `[..., B, E]`.

        `keep_BP` are dropout's factors; without them training mode draws from the global generator.
        """
        layers = self.linear_layers
        adapters = [None] * len(layers) if adapter is None else list(adapter)
        hidden = x_BE
        for index, (layer, layer_adapter) in enumerate(zip(layers, adapters, strict=True)):
            if index:
                hidden = functional.gelu(hidden, approximate="tanh")
                dropout = self.dropout if self.training else 0.0
                hidden = functional.dropout(hidden, dropout) if keep_BP is None else hidden * keep_BP
            hidden = adapted_linear(hidden, layer.weight, layer.bias, layer_adapter)
        return hidden.view(*hidden.shape[:-1], self.soft_tokens, self.llm_width)

    @torch.no_grad()
    def merged(self, adapter: ProjectorAdapter) -> Projector:
        """A plain projector that computes the same as this one under `adapter` (one episode's)."""
        weights = [
            merge_linear(layer.weight, layer.bias, layer_adapter)
            for layer, layer_adapter in zip(self.linear_layers, adapter, strict=True)
        ]
        result = self.like(input_width=weights[0][0].shape[1])
        for layer, (weight, bias) in zip(result.linear_layers, weights, strict=True):
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
        return result

    def like(self, *, input_width: int | None = None) -> Projector:
        """A freshly initialised projector of this shape on this device, for another input width if asked."""
        first = self.linear_layers[0]
        return Projector(
            input_width or self.input_width,
            self.llm_width,
            hidden_width=first.out_features,
            soft_tokens=self.soft_tokens,
            dropout=self.dropout,
            width_map=self.width_map,
        ).to(first.weight.device)

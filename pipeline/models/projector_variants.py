"""Projectors that baselines train in the place of the shared one; each is called and copied as `Projector` is.

In: embeddings `[..., B, E]`.  Out: soft tokens `[..., B, S, D]`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.lora import LinearAdapter
from pipeline.models.projector import Projector, ProjectorAdapter


class LinearProjector(Projector):
    """`Linear(E, S * D)`: LiMBeR's map to the soft tokens."""

    def __init__(self, input_width: int, llm_width: int, *, soft_tokens: int) -> None:
        """There is one layer, hence nothing to drop."""
        super().__init__(input_width, llm_width, soft_tokens=soft_tokens, dropout=0.0)
        self.layers = nn.ModuleList([nn.Linear(input_width, soft_tokens * llm_width)])

    def like(self, *, input_width: int | None = None) -> LinearProjector:
        """A freshly initialised one of this shape on this device."""
        fresh = LinearProjector(input_width or self.input_width, self.llm_width, soft_tokens=self.soft_tokens)
        return fresh.to(self.linear_layers[0].weight.device)


class LoraProjector(Projector):
    """A frozen projector under a trained low-rank update of each layer; the update starts at zero (B = 0)."""

    def __init__(self, base: Projector, rank: int) -> None:
        """A is drawn from the global generator, as `nn.Linear` draws weights of its shape."""
        super().__init__(
            base.input_width,
            base.llm_width,
            hidden_width=base.inner_width,
            soft_tokens=base.soft_tokens,
            dropout=base.dropout,
            width_map=base.width_map,
        )
        self.load_state_dict(base.state_dict())
        self.requires_grad_(False)
        self.rank = rank
        self.down = nn.ParameterList(
            [nn.Linear(width, rank).weight.detach().T.clone() for width, _ in self.layer_shapes]
        )
        self.up = nn.ParameterList([torch.zeros(rank, width) for _, width in self.layer_shapes])
        self.to(base.linear_layers[0].weight.device)

    @property
    def adapter(self) -> list[LinearAdapter]:
        """The update, at scale 1."""
        return [LinearAdapter(a_IR=a_IR, b_RO=b_RO) for a_IR, b_RO in zip(self.down, self.up, strict=True)]

    def forward(self, x_BE: Tensor, adapter: ProjectorAdapter | None = None, keep_BP: Tensor | None = None) -> Tensor:
        """Soft tokens under the trained update; another adapter in its place is not taken."""
        if adapter is not None:
            raise ValueError("a LoraProjector has an adapter of its own; give another one to the plain projector")
        return super().forward(x_BE, self.adapter, keep_BP)

    def plain(self) -> Projector:
        """The update merged into a plain projector."""
        return Projector.merged(self._base(), self.adapter).eval()

    def like(self, *, input_width: int | None = None) -> LoraProjector:
        """A freshly initialised update of the same layers."""
        if input_width not in (None, self.input_width):
            raise ValueError(f"a LoraProjector keeps its input width {self.input_width}, got {input_width}")
        return LoraProjector(self._base(), self.rank)

    def _base(self) -> Projector:
        base = super().like()
        own = self.state_dict()
        base.load_state_dict({name: own[name] for name in base.state_dict()})
        return base


def lora_rank(base: Projector, parameters: int) -> int:
    """Rank whose factors A and B of all layers together have nearest to this many numbers; 1 at least.

    A rank above the narrower width of a layer would hold no more updates: it is the most.
    """
    per_rank = sum(inputs + outputs for inputs, outputs in base.layer_shapes)
    widest = max(min(shape) for shape in base.layer_shapes)
    return min(max(1, round(parameters / per_rank)), widest)

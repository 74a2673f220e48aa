"""Things that caption embeddings of a new modality.

In: L2-normalised embeddings `[n, E]`.  Out: n captions, and how many parameters were trained and are deployed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector

_ROWS_PER_BATCH = 256


class Captioner(Protocol):
    """What a method fits."""

    @property
    def trained_parameters(self) -> int:
        """Parameters that gradient steps or a closed form chose from the support."""

    @property
    def deployed_parameters(self) -> int:
        """Numbers kept to caption one more sample, the frozen models not counted."""

    def caption(self, embeddings_NE: Tensor) -> list[str]:
        """Captions of embeddings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProjectorCaptioner:
    """Projector, then the frozen LLM; `before` brings embeddings to the projector's input space."""

    projector: Projector
    """Reads what `before` returns."""
    llm: FrozenLLM
    """Decodes greedily."""
    trained_parameters: int
    """Parameters chosen from the support."""
    before: Callable[[Tensor], Tensor] | None = None
    """Fixed map applied to the embeddings first."""
    extra_parameters: int = 0
    """Parameters of `before`."""

    @property
    def deployed_parameters(self) -> int:
        """The projector's and `before`'s."""
        return self.extra_parameters + sum(parameter.numel() for parameter in self.projector.parameters())

    @torch.no_grad()
    def caption(self, embeddings_NE: Tensor) -> list[str]:
        """Captions of embeddings."""
        device = self.projector.linear_layers[0].weight.device
        self.projector.eval()
        captions: list[str] = []
        for rows in embeddings_NE.to(device).split(_ROWS_PER_BATCH):
            captions += self.llm.generate(self.projector(rows if self.before is None else self.before(rows)))
        return captions


@dataclass(frozen=True, kw_only=True, eq=False)
class CopyCaptioner:
    """Copies a support caption chosen for each embedding."""

    choose: Callable[[Tensor], Tensor]
    """Embeddings `[n, E]` to support positions `[n]`."""
    captions: tuple[str, ...]
    """Captions of the support."""
    deployed_parameters: int
    """Numbers kept."""
    trained_parameters: int = 0
    """None are trained."""

    def caption(self, embeddings_NE: Tensor) -> list[str]:
        """Copied captions."""
        return [self.captions[int(position)] for position in self.choose(embeddings_NE)]

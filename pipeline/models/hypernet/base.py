"""What every hypernetwork is: support sets in, projector adapters out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from pipeline.episodes.batch import SupportBatch
from pipeline.models.lora import LinearAdapter
from pipeline.models.projector import Projector


class Hypernet(nn.Module, ABC):
    """Maps support sets to adapters of a projector."""

    common_width: int | None = None
    """Embedding width that it needs; None: any."""

    @abstractmethod
    def forward(self, support: SupportBatch, projector: Projector) -> list[LinearAdapter | None]:
        """Adapters of N modalities (leading axis N), one entry a projector layer."""


def check_width(name: str, got: int, allowed: int) -> None:
    """Raise where a tensor's width is not the one that the module was built for."""
    if got != allowed:
        raise ValueError(
            f"{name} has width {got}, but this hypernetwork was built for {allowed}: use the text encoder (and, for "
            "kind=attention, the common width) that it was trained with"
        )


def xavier_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and a zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def hide_text(support: SupportBatch, *, visible: bool) -> Tensor:
    """Text embeddings of the support, or zeros in the ablation without text conditioning."""
    return support.texts_NKW if visible else support.texts_NKW.new_zeros(support.texts_NKW.shape)

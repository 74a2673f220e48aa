"""What every hypernetwork is: support sets in, projector adapters out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from pipeline.config.schema import HypernetConfig
from pipeline.episodes.batch import SupportBatch
from pipeline.models.hypernet.generator import Generator
from pipeline.models.lora import LinearAdapter
from pipeline.models.projector import Projector


class Hypernet(nn.Module, ABC):
    """Maps support sets to adapters of a projector."""

    common_width: int | None = None
    """Embedding width that it needs; None: any."""

    def __init__(self, config: HypernetConfig, layer_shapes: list[tuple[int, int]]) -> None:
        """`layer_shapes` are the inputs and outputs of the projector's layers."""
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"hypernet.heads={config.heads} does not divide hypernet.width={config.width}")
        self.layer_shapes = layer_shapes
        self.adapted_shapes = layer_shapes if config.adapted_layers == "all" else layer_shapes[:1]
        self.rank, self.scale = config.rank, config.alpha / config.rank
        self.generate_bias, self.text_conditioning = config.generate_bias, config.text_conditioning

    @abstractmethod
    def forward(self, support: SupportBatch, projector: Projector) -> list[LinearAdapter | None]:
        """Adapters of N modalities (leading axis N), one entry a projector layer; None for a layer left as it is."""


def check_width(name: str, got: int, allowed: int) -> None:
    """Raise where a tensor's width is not the one that the module was built for."""
    if got != allowed:
        raise ValueError(
            f"{name} has width {got}, but this hypernetwork was built for {allowed}: use the text encoder (and, for "
            "kind=attention, the common width) that it was trained with"
        )


def xavier_generator(inputs: int, outputs: int) -> Generator:
    """A generator with Xavier-uniform weights and a zero bias."""
    layer = Generator(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def hide_text(support: SupportBatch, *, visible: bool) -> Tensor:
    """Text embeddings of the support, or zeros in the ablation without text conditioning."""
    return support.texts_NKW if visible else support.texts_NKW.new_zeros(support.texts_NKW.shape)

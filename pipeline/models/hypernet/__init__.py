"""Hypernetworks: support sets in, adapters of the shared projector out."""

from __future__ import annotations

from pipeline.config.schema import HypernetConfig
from pipeline.models.hypernet.attention import AttentionHypernet
from pipeline.models.hypernet.base import Hypernet
from pipeline.models.hypernet.equivariant import EquivariantHypernet
from pipeline.models.projector import Projector

__all__ = ["AttentionHypernet", "EquivariantHypernet", "Hypernet", "build_hypernet"]


def build_hypernet(config: HypernetConfig, projector: Projector, text_width: int) -> Hypernet:
    """The hypernetwork that `config` names, for this projector and text encoder."""
    if config.kind == "attention":
        return AttentionHypernet(
            width=config.width,
            layer_shapes=projector.layer_shapes,
            rank=config.rank,
            alpha=config.alpha,
            heads=config.heads,
            generate_bias=config.generate_bias,
            text_conditioning=config.text_conditioning,
        )
    return EquivariantHypernet(
        text_width=text_width,
        projector_shapes=projector.layer_shapes,
        rank=config.rank,
        alpha=config.alpha,
        width=config.width,
        heads=config.heads,
        layers=config.layers,
        generate_bias=config.generate_bias,
        text_conditioning=config.text_conditioning,
    )

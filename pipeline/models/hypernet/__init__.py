"""Hypernetworks: support sets in, adapters of the shared projector out."""

from __future__ import annotations

from pipeline.config.schema import HypernetConfig, HypernetKind
from pipeline.models.hypernet.attention import AttentionHypernet
from pipeline.models.hypernet.base import Hypernet
from pipeline.models.hypernet.equivariant import EquivariantHypernet
from pipeline.models.projector import Projector

__all__ = ["AttentionHypernet", "EquivariantHypernet", "Hypernet", "build_hypernet"]


_KINDS: dict[HypernetKind, type[Hypernet]] = {
    "attention": AttentionHypernet,
    "transformer": AttentionHypernet,
    "equivariant": EquivariantHypernet,
}


def build_hypernet(config: HypernetConfig, projector: Projector) -> Hypernet:
    """The hypernetwork that `config` names, for this projector."""
    return _KINDS[config.kind](config, projector.layer_shapes)

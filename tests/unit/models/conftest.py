"""Tiny models and support sets."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.config.schema import AdaptedLayers, HypernetConfig, HypernetKind, WidthMapKind
from pipeline.episodes.batch import EpisodeBatch, SupportBatch
from pipeline.models.hypernet import build_hypernet
from pipeline.models.projector import Projector
from pipeline.models.semi import Semi

WIDTH = 16


def episode_batch(width: int, *, episodes: int = 2, shots: int = 10, queries: int = 5, seed: int = 0) -> EpisodeBatch:
    """Random unit vectors."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> torch.Tensor:
        return normalize(torch.randn(*shape, generator=generator), dim=-1)

    return EpisodeBatch(
        support=SupportBatch(
            embeddings_NKE=unit(episodes, shots, width),
            texts_NKW=unit(episodes, shots, WIDTH),
            instructions_NW=unit(episodes, WIDTH),
        ),
        queries_NBE=unit(episodes, queries, width),
        captions=tuple(tuple("" for _ in range(queries)) for _ in range(episodes)),
    )


def one_support(batch: EpisodeBatch, episode: int) -> SupportBatch:
    """The support of one episode as a batch of one."""
    part = slice(episode, episode + 1)
    return SupportBatch(
        embeddings_NKE=batch.support.embeddings_NKE[part],
        texts_NKW=batch.support.texts_NKW[part],
        instructions_NW=batch.support.instructions_NW[part],
    )


def make_semi(
    kind: HypernetKind, *, width_map: WidthMapKind = "orthonormal", adapted_layers: AdaptedLayers = "all"
) -> Semi:
    """A tiny model whose zero-initialised corrections were moved away from zero."""
    torch.manual_seed(0)
    projector = Projector(WIDTH, 24, hidden_width=20, soft_tokens=3, dropout=0.1, width_map=width_map)
    settings: dict[HypernetKind, dict[str, Any]] = {
        "attention": {"width": WIDTH, "rank": 4},
        "transformer": {"width": WIDTH, "rank": 4, "heads": 2, "layers": 2},
        "equivariant": {"width": 32, "rank": 64, "heads": 4, "layers": 2},
    }
    config = HypernetConfig(kind=kind, alpha=8.0, adapted_layers=adapted_layers, **settings[kind])
    hypernet = build_hypernet(config, projector)
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return Semi(projector, hypernet)


@pytest.fixture(params=product(get_args(HypernetKind), get_args(AdaptedLayers)), ids="-".join)
def semi(request: pytest.FixtureRequest) -> Semi:
    kind, adapted_layers = request.param
    return make_semi(kind, adapted_layers=adapted_layers)

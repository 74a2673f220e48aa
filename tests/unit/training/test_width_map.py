"""`projector.width_map` of the configuration reaches the episodes of meta-training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.config.presets import build_preset
from pipeline.config.schema import EpisodeConfig, HypernetConfig, MetaConfig, OptimConfig, WidthMapKind
from pipeline.episodes.batch import EpisodeBatch
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.training.meta import MetaTask
from pipeline.training.stages import new_projector, new_semi

WIDTH, NARROW = 8, 5


class FakeRows:
    """Rows of a narrow encoder."""

    modality, instruction_W = "radar", torch.zeros(WIDTH)

    def __len__(self) -> int:
        return 20

    def embeddings(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        return normalize(torch.randn(len(rows), NARROW, generator=torch.Generator().manual_seed(0)), dim=-1)

    def text_embeddings(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        return normalize(torch.ones(len(rows), WIDTH), dim=-1)

    def captions(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> list[tuple[str, ...]]:
        return [("a red circle",) for _ in rows]


@pytest.mark.parametrize(("kind", "padded"), [("pad_select", True), ("orthonormal", False)])
def test_episodes_are_mapped_as_the_projector_says(llm: FrozenLLM, kind: WidthMapKind, padded: bool) -> None:
    preset = build_preset("smoke")
    config = replace(
        preset,
        projector=replace(preset.projector, input_width=WIDTH, width_map=kind),
        hypernet=HypernetConfig(kind="attention", width=WIDTH, rank=2),
    )
    semi = new_semi(config, new_projector(config, llm))
    task = MetaTask(
        semi,
        llm,
        paired=[FakeRows()],  # type: ignore[list-item]
        episodes=EpisodeConfig(support_shots=(4,), queries=2, isometry="none"),
        config=MetaConfig(optim=OptimConfig(steps=1), episodes_per_step=2),
        seed=0,
    )
    seen: list[EpisodeBatch] = []
    semi.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    task.losses(semi, task.prepare(0, range(2), torch.device("cpu")))
    for tensor in (seen[0].support.embeddings_NKE, seen[0].queries_NBE):
        assert tensor.shape[-1] == WIDTH
        assert padded == (not tensor[..., NARROW:].any())
        torch.testing.assert_close(tensor.norm(dim=-1), torch.ones(tensor.shape[:-1]))

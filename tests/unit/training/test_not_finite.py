"""Embeddings that are not finite are found before they train, and named: step, slot, modality, encoder, rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.config.presets import build_preset
from pipeline.config.schema import EpisodeConfig, HypernetConfig, MetaConfig, OptimConfig, PretrainConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.meta import MetaTask
from pipeline.training.pretrain import PretrainTask
from pipeline.training.stages import new_projector, new_semi

CPU = torch.device("cpu")
WIDTH, ROWS, SLOTS = 8, 40, 4
Rows = np.ndarray[Any, np.dtype[np.int64]]


class FakeRows:
    """Rows of one encoder, row 7 of which may be bad."""

    instruction_W = torch.zeros(WIDTH)

    def __init__(
        self, modality: str, *, bad: str | None = None, value: float = float("nan"), width: int = WIDTH
    ) -> None:
        self.modality, self.encoder, self.width = modality, f"{modality}-a", width
        generator = torch.Generator().manual_seed(1)
        self._signals = normalize(torch.randn(ROWS, width, generator=generator), dim=-1)
        self._texts = normalize(torch.randn(ROWS, WIDTH, generator=generator), dim=-1)
        if bad:
            {"signal": self._signals, "text": self._texts}[bad][7, 3] = value

    def __len__(self) -> int:
        return ROWS

    def embeddings(self, rows: Rows) -> Tensor:
        return self._signals[rows]

    def text_embeddings(self, rows: Rows) -> Tensor:
        return self._texts[rows]

    def captions(self, rows: Rows) -> list[tuple[str, ...]]:
        return [("a red circle",) for _ in rows]

    def ids(self, rows: Rows) -> list[str]:
        return [f"{self.modality}-{row}" for row in rows]


def _meta(llm: FrozenLLM, *sources: FakeRows, **changes: Any) -> MetaTask:
    preset = build_preset("smoke")
    config = replace(
        preset,
        projector=replace(preset.projector, input_width=WIDTH, hidden_width=16, dropout=0.3),
        hypernet=HypernetConfig(kind="equivariant", width=WIDTH, rank=2),
    )
    meta = MetaConfig(optim=OptimConfig(steps=1), episodes_per_step=SLOTS, **changes)
    torch.manual_seed(0)
    projector = new_projector(config, llm)
    semi = new_semi(replace(config, meta=meta), projector)
    episodes = EpisodeConfig(support_shots=(6,), queries=2)
    return MetaTask(semi, llm, paired=list(sources), episodes=episodes, config=meta, seed=0)  # type: ignore[arg-type]


def _pretrain(llm: FrozenLLM, *sources: FakeRows, dropout: float = 0.0) -> PretrainTask:
    config = PretrainConfig(optim=OptimConfig(steps=1), batch_size=SLOTS, text_fraction=0.0)
    projector = Projector(WIDTH, llm.width, hidden_width=16, soft_tokens=2, dropout=dropout)
    return PretrainTask(projector, llm, paired=list(sources), texts=[], config=config, seed=7)  # type: ignore[arg-type]


def _first_failure(task: MetaTask | PretrainTask) -> tuple[int, str]:
    for step in range(200):
        try:
            task.prepare(step, range(SLOTS), CPU)
        except ValueError as error:
            return step, str(error)
    raise AssertionError("never drawn")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("bad", "what"), [("signal", "embeddings"), ("text", "text embeddings")])
def test_episode_is_named_with_its_coordinates(llm: FrozenLLM, bad: str, what: str, value: float) -> None:
    task = _meta(llm, FakeRows("radar"), FakeRows("sonar", bad=bad, value=value))
    step, message = _first_failure(task)
    assert message.startswith(f"step {step}, slot ")
    slot = int(message.split("slot ")[1].split()[0])
    assert message.startswith(task.describe(step, slot))
    assert "(modality 'sonar', encoder 'sonar-a', support sonar-" in message and "isometry seed " in message
    assert message.endswith(f": {what} of sonar-7 are not finite; extract this dataset again")


def test_pair_is_named_with_its_coordinates(llm: FrozenLLM) -> None:
    step, message = _first_failure(_pretrain(llm, FakeRows("radar"), FakeRows("sonar", bad="signal")))
    assert message.startswith(f"step {step}, slot ") and message.endswith(
        "(modality 'sonar', encoder 'sonar-a', row sonar-7): the embedding is not finite; extract this dataset again"
    )


def test_width_map_is_not_fitted_on_them(llm: FrozenLLM) -> None:
    with pytest.raises(ValueError, match="dataset 'sonar', encoder 'sonar-a': embeddings that are not finite"):
        _pretrain(llm, FakeRows("sonar", bad="signal", width=11))


@pytest.mark.parametrize("stage", ["pretrain", "meta"])
def test_dropout_belongs_to_the_slot(llm: FrozenLLM, stage: str) -> None:
    """Losses of all slots together are those of two workers, and of each slot alone."""
    sources = (FakeRows("radar"), FakeRows("sonar"))
    task = _meta(llm, *sources, train_projector=True) if stage == "meta" else _pretrain(llm, *sources, dropout=0.3)

    def losses(step: int, slots: range) -> Tensor:
        return task.losses(task.module, task.prepare(step, slots, CPU)).detach()  # type: ignore[arg-type]

    for step in range(3):
        whole = losses(step, range(SLOTS))
        assert whole.shape == (SLOTS,)
        for world in (2, SLOTS):
            for rank in range(world):
                slots = range(rank, SLOTS, world)
                torch.testing.assert_close(losses(step, slots), whole[list(slots)], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(losses(step, range(SLOTS)), whole, atol=0, rtol=0)
    task.module.eval()
    if stage == "meta":  # in evaluation there is no dropout, whatever the batch carries
        without = losses(0, range(SLOTS))
        task.module.train()
        assert not torch.equal(without, losses(0, range(SLOTS)))

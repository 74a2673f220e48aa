"""What any engine must keep: float32 trainables, gradients and moments around a frozen bfloat16 LLM."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.engine import Engine


def check_precision(engine: Engine, projector: Projector, llm: FrozenLLM) -> None:
    """Two updates; then the types of everything, and that something was learnt."""
    seen: list[torch.dtype] = []

    def note(gradient: Tensor) -> None:
        seen.append(gradient.dtype)

    for weight in projector.parameters():
        weight.register_hook(note)
    before = engine.state()
    frozen = [weight.clone() for weight in llm.model.parameters()]
    inputs_BE = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        loss = llm.caption_losses(engine.module(inputs_BE), ["a red circle", "blue square"]).mean()
        assert loss.dtype == torch.float32
        assert engine.update(loss, 1e-2) > 0
    state = engine.state()
    assert len(seen) == 2 * len(list(projector.parameters())) and set(seen) == {torch.float32}
    assert {weight.dtype for weight in projector.parameters()} == {torch.float32}
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert not any(torch.equal(before[key], state[key]) for key in state)
    assert all(value.any() for value in state.values())
    for was, weight in zip(frozen, llm.model.parameters(), strict=True):
        assert weight.dtype == torch.bfloat16 and weight.grad is None and torch.equal(was, weight)

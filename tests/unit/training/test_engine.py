"""Parts of an update add up to the whole; trainables stay float32 around an LLM that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.config.schema import LLMConfig, OptimConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.engine import LocalEngine
from tests.precision import check_precision
from tests.tiny_lm import tiny_lm_dir as tiny_lm_dir

OPTIM = OptimConfig(learning_rate=1e-2, steps=10, clip_norm=0.5, weight_decay=0.1)


def _train(parts: int, steps: int = 4) -> tuple[list[float], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
    engine = LocalEngine(module, OPTIM)
    norms = []
    for step in range(steps):
        x_BE = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        for part in x_BE.chunk(parts):
            engine.backward((module(part) - part[:, :3]).square().mean(), parts=parts)
        norms.append(engine.step(1e-2))
    return norms, engine.state()


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_add_up_to_the_update(parts: int) -> None:
    (norms, state), (whole_norms, whole) = _train(parts), _train(1)
    assert norms == pytest.approx(whole_norms, rel=1e-5)
    for key, value in whole.items():
        torch.testing.assert_close(state[key], value, atol=1e-6, rtol=1e-5, msg=key)


def test_update_is_one_part_and_leaves_no_gradient() -> None:
    module = nn.Linear(3, 2)
    engine = LocalEngine(module, OPTIM)
    for _ in range(2):  # a second one that added to the first one's gradients would have another norm
        with torch.no_grad():
            module.weight.fill_(0.5)
            module.bias.fill_(0.5)
        assert engine.update(module(torch.ones(1, 3)).square().sum(), 1e-2) == pytest.approx(4 * 8**0.5)
        assert module.weight.grad is None


def test_trainables_stay_float32_around_a_bfloat16_llm(tiny_lm_dir: Path) -> None:
    llm = FrozenLLM(LLMConfig(path=str(tiny_lm_dir), dtype="bfloat16"), tiny_lm_dir)
    projector = Projector(6, llm.width, hidden_width=8, soft_tokens=2, dropout=0.0)
    check_precision(LocalEngine(projector, OPTIM), projector, llm)

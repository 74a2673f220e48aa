"""DeepSpeed against plain torch: same numbers, and a state that moves between worker counts and ZeRO stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.config.schema import LLMConfig, OptimConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.hypernet.generator import Generator
from pipeline.models.projector import Projector
from pipeline.training.engine import Engine, LocalEngine
from tests.precision import check_precision
from tests.processes import gloo_process, run_processes
from tests.tiny_lm import save_tiny_lm

OPTIM = OptimConfig(learning_rate=1e-2, steps=10, clip_norm=0.5, weight_decay=0.1)
FIRST, LAST = 4, 8


def _network() -> nn.Module:
    torch.manual_seed(0)
    # Eight rows a step: the first generator's factors are smaller than its gradient, the second's are not.
    return nn.Sequential(nn.Linear(5, 48), nn.GELU(), Generator(48, 64), nn.GELU(), Generator(64, 3))


def _advance(engine: Engine, steps: range, rank: int = 0, world: int = 1, parts: int = 1) -> list[float]:
    norms = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)
        for part_x, part_y in zip(x[rank::world].chunk(parts), y[rank::world].chunk(parts), strict=True):
            engine.backward((engine.module(part_x) - part_y).square().mean(), parts=parts)
        norms.append(engine.step(1e-2 / (1 + step)))
    return norms


def _worker(rank: int, port: int, setting: Setting, start: str, out: str) -> None:
    from pipeline.runtime import deepspeed_engine
    from pipeline.runtime.deepspeed_engine import DeepSpeedEngine

    deepspeed_engine._BUCKET = 20  # several buckets an update, and a weight that is larger than one
    with gloo_process(rank, setting.world, port):
        engine = DeepSpeedEngine(_network(), OPTIM, zero_stage=setting.stage, offload_optimizer=setting.offload)
        if start:
            engine.load_state(load_file(start), FIRST)
            reloaded = engine.state()
            assert all(torch.equal(reloaded[key], value) for key, value in load_file(start).items())
        steps = range(FIRST, LAST) if start else range(FIRST)
        norms = _advance(engine, steps, rank, setting.world, setting.parts)
        state = engine.state()
        if rank == 0:
            save_file(state | {"norms": torch.tensor(norms)}, out)


def _run(directory: Path, setting: Setting, start: Path | None = None) -> Path:
    out = directory / f"{'then' if start else 'first'}.safetensors"
    run_processes(_worker, setting.world, setting, str(start or ""), str(out))
    return out


@dataclass(frozen=True)
class Setting:
    stage: int
    world: int
    parts: int
    offload: bool = False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (Setting(0, 1, 1), Setting(1, 2, 2)),
        (Setting(1, 2, 1), Setting(2, 1, 2)),
        (Setting(2, 2, 2), Setting(1, 2, 1, offload=True)),
        (Setting(2, 2, 2, offload=True), Setting(3, 2, 4)),
        (Setting(3, 2, 1), Setting(0, 2, 2)),
        (Setting(0, 4, 1), Setting(0, 1, 4)),
        (Setting(1, 1, 2, offload=True), Setting(3, 2, 2, offload=True)),
    ],
    ids=str,
)
def test_every_setting_trains_as_plain_torch_and_continues_any_other(
    tmp_path: Path, first: Setting, then: Setting
) -> None:
    local = LocalEngine(_network(), OPTIM)
    norms = _advance(local, range(FIRST))
    halfway = local.state()
    norms += _advance(local, range(FIRST, LAST))
    one = _run(tmp_path, first)
    two = _run(tmp_path, then, start=_without_norms(one))
    for path, expected, wanted_norms in ((one, halfway, norms[:FIRST]), (two, local.state(), norms[FIRST:])):
        got = load_file(path)
        torch.testing.assert_close(got.pop("norms"), torch.tensor(wanted_norms), atol=1e-5, rtol=1e-5)
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(got[key], value, atol=1e-6, rtol=1e-5, msg=key)


def _without_norms(path: Path) -> Path:
    state = load_file(path)
    del state["norms"]
    target = path.with_name(f"start-{path.name}")
    save_file(state, target)
    return target


def _recorded(collective: Callable[..., Any], sent: list[int]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        sent.append(args[-1].numel())
        return collective(*args, **options)

    return call


def _traffic(rank: int, port: int, world: int, out: str) -> None:
    from pipeline.runtime.deepspeed_engine import DeepSpeedEngine

    with gloo_process(rank, world, port):
        engine = DeepSpeedEngine(_network(), OPTIM, zero_stage=0)
        sent: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            for name in ("all_reduce", "all_gather"):
                patch.setattr(torch.distributed, name, _recorded(getattr(torch.distributed, name), sent))
            _advance(engine, range(1), rank, world)
        if rank == 0:
            save_file({"sent": torch.tensor(sent)}, out)


@pytest.mark.slow
def test_workers_send_a_generators_factors_and_never_its_gradient(tmp_path: Path) -> None:
    out = tmp_path / "sent.safetensors"
    run_processes(_traffic, 2, 2, str(out))
    linear, narrow, factors = 5 * 48 + 48, [64 * 3, 3], 4 * (48 + 64)
    assert sorted(load_file(out)["sent"].tolist()) == sorted([linear, *narrow, factors])


@pytest.mark.parametrize(
    ("stage", "offload", "message"),
    [
        (4, False, r"runtime\.zero_stage=4: this engine serves 0, 1, 2 and 3"),
        (0, True, r"runtime\.offload_optimizer=True needs runtime\.zero_stage 1, 2 or 3, got 0"),
    ],
)
def test_what_the_engine_cannot_serve_is_named(stage: int, offload: bool, message: str) -> None:
    from pipeline.runtime.deepspeed_engine import DeepSpeedEngine

    with pytest.raises(ValueError, match=message):
        DeepSpeedEngine(_network(), OPTIM, zero_stage=stage, offload_optimizer=offload)


def _precision(rank: int, port: int, world: int, stage: int, offload: bool, folder: str) -> None:
    from pipeline.runtime.deepspeed_engine import DeepSpeedEngine

    with gloo_process(rank, world, port):
        llm = FrozenLLM(LLMConfig(path=folder, dtype="bfloat16"), Path(folder))
        torch.manual_seed(0)
        projector = Projector(6, llm.width, hidden_width=8, soft_tokens=2, dropout=0.0)
        engine = DeepSpeedEngine(projector, OPTIM, zero_stage=stage, offload_optimizer=offload)
        check_precision(engine, projector, llm)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "stage", "offload"), [(1, 1, False), (2, 2, False), (2, 1, True)])
def test_trainables_stay_float32_around_a_bfloat16_llm(tmp_path: Path, world: int, stage: int, offload: bool) -> None:
    save_tiny_lm(tmp_path)
    run_processes(_precision, world, world, stage, offload, str(tmp_path))

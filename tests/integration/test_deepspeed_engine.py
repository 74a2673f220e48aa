"""DeepSpeed against plain torch: same numbers, and a state that moves between worker counts and ZeRO stages."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.config.schema import OptimConfig
from pipeline.training.engine import Engine, LocalEngine

OPTIM = OptimConfig(learning_rate=1e-2, steps=10, clip_norm=0.5, weight_decay=0.1)
FIRST, LAST = 4, 8


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))


def _advance(engine: Engine, steps: range, rank: int, world: int) -> list[float]:
    norms = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)
        loss = (engine.module(x[rank::world]) - y[rank::world]).square().mean()
        norms.append(engine.update(loss, 1e-2 / (1 + step)))
    return norms


def _worker(rank: int, world: int, port: int, stage: int, start: str, out: str) -> None:
    from pipeline.runtime.deepspeed_engine import DeepSpeedEngine

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    engine = DeepSpeedEngine(_network(), OPTIM, zero_stage=stage)
    if start:
        engine.load_state(load_file(start), FIRST)
        reloaded = engine.state()
        assert all(torch.equal(reloaded[key], value) for key, value in load_file(start).items())
    norms = _advance(engine, range(FIRST, LAST) if start else range(FIRST), rank, world)
    state = engine.state()
    if rank == 0:
        save_file(state | {"norms": torch.tensor(norms)}, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _run(directory: Path, *, stage: int, world: int, start: Path | None = None) -> Path:
    out = directory / f"{stage}-{world}-{start.stem if start else 'new'}.safetensors"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    arguments = (world, port, stage, str(start or ""), str(out))
    workers = [context.Process(target=_worker, args=(rank, *arguments)) for rank in range(world)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "world", "then_stage", "then_world"), [(0, 1, 1, 2), (1, 2, 2, 1), (2, 2, 1, 2)])
def test_state_moves_between_worker_counts_and_stages(
    tmp_path: Path, stage: int, world: int, then_stage: int, then_world: int
) -> None:
    local = LocalEngine(_network(), OPTIM)
    norms = _advance(local, range(FIRST), 0, 1)
    halfway = local.state()
    norms += _advance(local, range(FIRST, LAST), 0, 1)
    first = _run(tmp_path, stage=stage, world=world)
    last = _run(tmp_path, stage=then_stage, world=then_world, start=_without_norms(first))
    for path, expected, wanted_norms in ((first, halfway, norms[:FIRST]), (last, local.state(), norms[FIRST:])):
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


def test_unserved_zero_stage_is_named() -> None:
    from pipeline.runtime.deepspeed_engine import DeepSpeedEngine

    with pytest.raises(ValueError, match=r"runtime\.zero_stage=3: this engine serves 0, 1 and 2"):
        DeepSpeedEngine(_network(), OPTIM, zero_stage=3)

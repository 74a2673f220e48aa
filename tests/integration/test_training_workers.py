"""Two workers without Ray: the context's parity with one process, and endings that both of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimConfig
from pipeline.episodes.dropout import KeepMasks
from pipeline.episodes.sampler import philox
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.context import LocalContext, TrainContext, TrainingError, agreed
from pipeline.training.engine import LocalEngine
from pipeline.training.loop import TrainingDivergedError, train
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.stop import TrainingStopped
from tests.processes import gloo_process, run_processes

WORLD, SLOTS = 2, 4
OPTIM = OptimConfig(learning_rate=1e-2, steps=8, warmup_steps=2)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Averaging(LocalEngine):
    """Plain torch whose gradients are averaged over the workers: this test is not about DeepSpeed."""

    def step(self, learning_rate: float) -> float:
        for parameter in self.module.parameters():
            assert parameter.grad is not None
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= WORLD
        return super().step(learning_rate)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        result: Tensor = self.last(self.first(x) * keep)
        return result


class Task:
    """Least squares with dropout; slot 1 belongs to worker 1, so what befalls it befalls one worker alone."""

    slots_per_step, queries_per_slot = SLOTS, 1

    def __init__(self, *, unreadable_at: int | None = None, poison_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = Net()
        self._unreadable_at, self._poison_at = unreadable_at, poison_at
        self._keep = KeepMasks((8,), 0.3, seed=5)

    def prepare(self, step: int, slots: range, device: torch.device) -> tuple[Tensor, Tensor | None]:
        x = torch.from_numpy(philox(1, step).standard_normal((SLOTS, 3), dtype="float32"))
        if 1 in slots and step == self._unreadable_at:
            raise ValueError(f"step {step}, slot 1: no such row")
        if step == self._poison_at:
            x[1] = float("inf")
        return x[list(slots)], self._keep.draw(step, slots, device)

    def losses(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (module(*batch) - batch[0][:, :2]).square().mean(dim=1)

    def describe(self, step: int, slot: int) -> str:
        return f"slot {slot} of step {step}"


class Blind(CheckpointStore):
    """Of a worker that sees nothing, or something else: it is not asked."""

    def newest(self, **_: Any) -> int | None:
        raise AssertionError("only rank 0 decides where to resume")


def _train(folder: Path, context: TrainContext, task: Task, **options: Any) -> dict[str, Tensor]:
    store = (Blind if context.rank else CheckpointStore)(folder / "checkpoints", fingerprint="f")
    engine = (LocalEngine if context.world_size == 1 else Averaging)(task.module, OPTIM)
    log = MetricsLog(folder / "metrics.jsonl")
    return train(task, engine, context, optim=OPTIM, checkpoint_every=3, checkpoints=store, log=log, **options)


def _losses(folder: Path) -> list[float]:
    return [record["loss"] for record in MetricsLog(folder / "metrics.jsonl").read()]


def _check_context(rank: int, port: int) -> None:
    from pipeline.runtime.ray_train import DistributedContext

    with gloo_process(rank, WORLD, port):
        context = DistributedContext(torch.device("cpu"))
        assert (context.rank, context.world_size) == (rank, WORLD)
        assert context.mean(torch.tensor(float(rank))) == 0.5
        assert context.any([rank == 0, rank == 1, False, True]) == [True, True, False, True]
        assert context.broadcast(-1 if rank == 0 else 7) == -1
        assert context.broadcast(2**40 + rank) == 2**40
        texts = ["größer\n" * 50, ""]
        assert context.gather_text(texts[rank]) == texts
        assert context.gather_text("") == ["", ""]
        with pytest.raises(TrainingError, match="^only worker 1 knows why$"), agreed(context):
            if rank == 1:
                raise OSError("only worker 1\nknows why")
        with pytest.raises(TrainingError, match="^the same$"), agreed(context):
            raise ValueError("the same")
        context.barrier()


def _check_endings(rank: int, port: int, directory: str) -> None:
    from pipeline.runtime.ray_train import DistributedContext

    folder = Path(directory)
    with gloo_process(rank, WORLD, port):
        context = DistributedContext(torch.device("cpu"))
        whole = _train(folder / "whole", context, Task())
        with pytest.raises(TrainingError, match="^step 5, slot 1: no such row$"):
            _train(folder / "unreadable", context, Task(unreadable_at=5))
        with pytest.raises(TrainingDivergedError, match="not finite: the loss of slot 1 of step 4; the checkpoint"):
            _train(folder / "diverged", context, Task(poison_at=4))
        # Only worker 0 is asked whether to stop, and only it writes.
        asked = iter([False] * 4 + [True])
        with pytest.raises(TrainingStopped, match="^stopped after 4 of 8 updates"):
            _train(folder / "stopped", context, Task(), stop=lambda: next(asked) if rank == 0 else True)
        # Both continue from what worker 0 finds, worker 1 without looking.
        for name in ("unreadable", "diverged", "stopped"):
            resumed = _train(folder / name, context, Task())
            assert all(torch.equal(whole[key], resumed[key]) for key in whole)
        context.barrier()
        if rank == 0:
            (folder / "whole" / "checkpoints" / "step-00000008" / "state.safetensors").unlink()
            (folder / "blocked").mkdir()
            (folder / "blocked" / "checkpoints").write_text("a file where a folder should be")
        context.barrier()
        with pytest.raises(TrainingError, match=r"^checkpoint .*/step-00000003 cannot be written"):
            _train(folder / "blocked", context, Task())
        assert all(torch.equal(whole[key], value) for key, value in _train(folder / "whole", context, Task()).items())


def test_context_of_two_processes() -> None:
    run_processes(_check_context, WORLD)


def test_context_of_one_process() -> None:
    context = LocalContext()
    assert context.any([True, False]) == [True, False] and context.any([]) == []
    assert context.broadcast(-1) == -1 and context.gather_text("größer") == ["größer"]
    with pytest.raises(TrainingError, match="^FileNotFoundError$"), agreed(context):
        raise FileNotFoundError


def test_both_end_alike_and_agree_with_one(tmp_path: Path) -> None:
    """Dropout of 0.3: two workers have the losses of one."""
    run_processes(_check_endings, WORLD, str(tmp_path))
    _train(tmp_path / "one", LocalContext(), Task())
    assert _losses(tmp_path / "whole") == pytest.approx(_losses(tmp_path / "one"), abs=1e-6)
    for name in ("unreadable", "diverged", "stopped"):
        assert _losses(tmp_path / name) == _losses(tmp_path / "whole")

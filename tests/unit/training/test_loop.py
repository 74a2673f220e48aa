"""The loop resumes bit for bit, its checkpoints are complete or absent, divergence stops it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimConfig
from pipeline.episodes.dropout import KeepMasks
from pipeline.episodes.sampler import philox
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.context import LocalContext, TrainingError
from pipeline.training.engine import LocalEngine, learning_rate
from pipeline.training.loop import TrainingDivergedError, train
from pipeline.training.metrics_log import MetricsFollower, MetricsLog
from pipeline.training.stop import TrainingStopped

OPTIM = OptimConfig(learning_rate=1e-2, steps=10, warmup_steps=2, weight_decay=0.1)


class TwoLayers(nn.Module):
    """A frozen bias, and dropout between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.first.bias.requires_grad_(False)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        result: Tensor = self.last(self.first(x) * keep)
        return result


class Regression:
    """Least squares with dropout; stops by itself at `die_at`, as a killed process would."""

    slots_per_step, queries_per_slot = 4, 2

    def __init__(
        self, *, die_at: int | None = None, poison_at: int | None = None, unreadable_at: int | None = None
    ) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = TwoLayers()
        self._die_at, self._poison_at, self._unreadable_at = die_at, poison_at, unreadable_at
        self._keep = KeepMasks((8,), 0.3, seed=5)
        self.prepared: list[int] = []
        self.threads: set[str] = set()

    def prepare(self, step: int, slots: range, device: torch.device) -> tuple[int, Tensor, Tensor | None]:
        self.prepared.append(step)
        self.threads.add(threading.current_thread().name)
        if step == self._unreadable_at:
            raise ValueError(f"step {step}: no such row")
        x = torch.from_numpy(philox(1, step).standard_normal((self.slots_per_step, 3), dtype="float32"))[list(slots)]
        if step == self._poison_at:
            x[1] = float("nan")
        return step, x.to(device), self._keep.draw(step, slots, device)

    def losses(self, module: nn.Module, batch: tuple[int, Tensor, Tensor]) -> Tensor:
        step, x, keep = batch
        if step == self._die_at:
            raise KeyboardInterrupt
        return (module(x, keep) - x[:, :2]).square().mean(dim=1)

    def describe(self, step: int, slot: int) -> str:
        return f"slot {slot} of step {step}"


def _run(directory: Path, task: Regression, every: int = 3, **options: Any) -> dict[str, Tensor]:
    return train(
        task,
        LocalEngine(task.module, OPTIM),
        LocalContext(),
        optim=OPTIM,
        checkpoint_every=every,
        checkpoints=CheckpointStore(directory / "checkpoints", fingerprint="f"),
        log=MetricsLog(directory / "metrics.jsonl"),
        **options,
    )


@pytest.mark.parametrize("die_at", [0, 2, 3, 4, 8, 9])
def test_interrupted_run_ends_with_the_same_bits(tmp_path: Path, die_at: int) -> None:
    whole = _run(tmp_path / "whole", Regression())
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "cut", Regression(die_at=die_at))
    resumed = _run(tmp_path / "cut", Regression())
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    logs = [MetricsLog(tmp_path / name / "metrics.jsonl").read() for name in ("whole", "cut")]
    assert [record["loss"] for record in logs[0]] == [record["loss"] for record in logs[1]]
    assert [record["step"] for record in logs[1]] == list(range(OPTIM.steps))


def test_checkpoint_holds_trainable_state_only_and_old_ones_go(tmp_path: Path) -> None:
    state = _run(tmp_path, Regression())
    assert not any("first.bias" in key for key in state), "a frozen parameter has no place in a checkpoint"
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000009", "step-00000010"]
    size = (tmp_path / "checkpoints" / names[-1] / "state.safetensors").stat().st_size
    assert size <= 1.05 * sum(value.nbytes for value in state.values()) + 2048


def test_unfinished_and_foreign_checkpoints_are_not_resumed(tmp_path: Path) -> None:
    _run(tmp_path, Regression())
    directory = tmp_path / "checkpoints"
    (directory / ".step-00000099.123").mkdir()
    newest = CheckpointStore(directory, fingerprint="f").latest()
    assert newest is not None and newest.updates == 10
    assert CheckpointStore(directory, fingerprint="another configuration").latest() is None


def test_what_a_killed_writer_left_goes_when_the_run_starts_again(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".step-00000003.4711"
    left.mkdir(parents=True)
    (left / "state.safetensors").write_bytes(b"half")
    _run(tmp_path, Regression())
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000009", "step-00000010"]


def test_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    _run(tmp_path, Regression())
    position = tmp_path / "checkpoints" / "step-00000010" / "position.json"
    position.write_text(position.read_text().replace('"format_version": 2', '"format_version": 7'))
    with pytest.raises(ValueError, match="checkpoint format 7, this code reads 2"):
        CheckpointStore(tmp_path / "checkpoints", fingerprint="f").latest()


def test_state_that_does_not_fit_is_named() -> None:
    small, large = nn.Linear(3, 2), nn.Linear(3, 4)
    state = LocalEngine(large, OPTIM).state()
    with pytest.raises(ValueError, match=r"'bias' is \(4,\) in the checkpoint and \(2,\) in the model"):
        LocalEngine(small, OPTIM).load_state(state, 1)


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    message = r"^step 7: loss nan.*; not finite: the loss of slot 1 of step 7; the checkpoint of the last finite state"
    with pytest.raises(TrainingDivergedError, match=message):
        _run(tmp_path, Regression(poison_at=7))
    newest = CheckpointStore(tmp_path / "checkpoints", fingerprint="f").latest()
    assert newest is not None and newest.updates == 6
    assert all(torch.isfinite(value).all() for value in newest.state.values())


@pytest.mark.parametrize("prefetched", [0, 1, 3])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_batches_made_ahead_change_no_bit(tmp_path: Path, prefetched: int, micro_batches: int) -> None:
    task = Regression()
    here = _run(tmp_path / "here", Regression(), prefetched=0, micro_batches=micro_batches)
    ahead = _run(tmp_path / "ahead", task, prefetched=prefetched, micro_batches=micro_batches)
    assert all(torch.equal(here[key], ahead[key]) for key in here)
    assert task.prepared == [step for step in range(OPTIM.steps) for _ in range(micro_batches)]
    assert task.threads == ({"prefetch_0"} if prefetched else {"MainThread"})
    assert not [thread for thread in threading.enumerate() if thread.name in ("prefetch_0", "checkpoint-writer_0")]


@pytest.mark.parametrize("prefetched", [0, 1, 3])
def test_unreadable_batch_ends_the_run_at_its_own_step(tmp_path: Path, prefetched: int) -> None:
    with pytest.raises(TrainingError, match="^step 8: no such row$"):
        _run(tmp_path, Regression(unreadable_at=8), prefetched=prefetched)
    assert [record["step"] for record in MetricsLog(tmp_path / "metrics.jsonl").read()] == list(range(8))
    assert CheckpointStore(tmp_path / "checkpoints", fingerprint="f").newest() == 6
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch_0"]


@pytest.mark.parametrize("stop_at", [0, 1, 3, 7, 9])
def test_stopped_run_is_saved_at_that_step_and_continues(tmp_path: Path, stop_at: int) -> None:
    whole = _run(tmp_path / "whole", Regression())
    asked = iter(range(OPTIM.steps))
    with pytest.raises(TrainingStopped, match=f"stopped after {stop_at} of 10 updates; the same command continues"):
        _run(tmp_path / "cut", Regression(), stop=lambda: next(asked) == stop_at)
    assert CheckpointStore(tmp_path / "cut" / "checkpoints", fingerprint="f").newest() == (stop_at or None)
    task = Regression()
    resumed = _run(tmp_path / "cut", task)
    assert task.prepared == list(range(stop_at, OPTIM.steps))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_checkpoint_that_cannot_be_written_ends_the_run_and_names_it(tmp_path: Path) -> None:
    task = Regression()
    prepare = task.prepare

    def block(step: int, slots: range, device: torch.device) -> tuple[int, Tensor, Tensor | None]:
        if step == 4:
            (tmp_path / "checkpoints").mkdir(exist_ok=True)
            (tmp_path / "checkpoints" / "step-00000006").write_text("a file where a folder should be")
        return prepare(step, slots, device)

    task.prepare = block  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"^checkpoint .*/step-00000006 cannot be written \("):
        _run(tmp_path, task, prefetched=0)
    assert not list((tmp_path / "checkpoints").glob(".*")), "half a checkpoint is left on a full disk"
    assert (tmp_path / "checkpoints" / "step-00000003").is_dir()


def test_metrics_that_cannot_be_written_end_the_run(tmp_path: Path) -> None:
    task = Regression()

    class Full(MetricsLog):
        def append(self, record: dict[str, Any]) -> None:
            if record["step"] == 5:
                raise OSError(28, "No space left on device", str(self.path))
            super().append(record)

    with pytest.raises(TrainingError, match=r"No space left on device.*metrics\.jsonl"):
        train(
            task,
            LocalEngine(task.module, OPTIM),
            LocalContext(),
            optim=OPTIM,
            checkpoint_every=3,
            checkpoints=CheckpointStore(tmp_path / "checkpoints", fingerprint="f"),
            log=Full(tmp_path / "metrics.jsonl"),
        )
    assert CheckpointStore(tmp_path / "checkpoints", fingerprint="f").newest() == 6


def test_schedule_warms_up_to_the_peak_and_decays_to_zero() -> None:
    rates = [learning_rate(step, OPTIM) for step in range(OPTIM.steps + 1)]
    assert rates[0] == pytest.approx(0.005) and rates[1] == rates[2] == pytest.approx(0.01)
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] == pytest.approx(0.0)


def test_follower_sees_each_step_once_across_a_resume(tmp_path: Path) -> None:
    log, follower = MetricsLog(tmp_path / "m.jsonl"), MetricsFollower(tmp_path / "m.jsonl")
    assert follower.poll() == []
    log.truncate(0)
    for step in range(4):
        log.append({"step": step, "loss": float(step)})
    assert [record["step"] for record in follower.poll()] == [0, 1, 2, 3]
    log.truncate(2)
    assert follower.poll() == []
    for step in range(2, 6):
        log.append({"step": step, "loss": 0.0})
    with (tmp_path / "m.jsonl").open("a") as handle:
        handle.write('{"step": 6, "lo')
    assert [record["step"] for record in follower.poll()] == [4, 5]


def test_checkpoints_of_another_configuration_give_way(tmp_path: Path) -> None:
    """Theirs have higher numbers: with them in the folder, retention would drop ours as the oldest."""
    CheckpointStore(tmp_path / "checkpoints", fingerprint="another").save(900, {"weight/x": torch.zeros(1)})
    CheckpointStore(tmp_path / "checkpoints", fingerprint="another").save(901, {"weight/x": torch.zeros(1)})
    _run(tmp_path, Regression())
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000009", "step-00000010"]

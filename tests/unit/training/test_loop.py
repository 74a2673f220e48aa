"""The loop resumes bit for bit, its checkpoints are complete or absent, divergence stops it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimConfig
from pipeline.episodes.sampler import philox
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.context import LocalContext
from pipeline.training.engine import LocalEngine, learning_rate
from pipeline.training.loop import TrainingDivergedError, train
from pipeline.training.metrics_log import MetricsFollower, MetricsLog

OPTIM = OptimConfig(learning_rate=1e-2, steps=10, warmup_steps=2, weight_decay=0.1)


class Regression:
    """Least squares with dropout; stops by itself at `die_at`, as a killed process would."""

    slots_per_step, queries_per_slot = 4, 2

    def __init__(self, *, die_at: int | None = None, poison_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 2))
        self.module[0].bias.requires_grad_(False)
        self._die_at, self._poison_at = die_at, poison_at

    def loss(self, module: nn.Module, step: int, slots: range, device: torch.device) -> Tensor:
        if step == self._die_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(philox(1, step).standard_normal((self.slots_per_step, 3), dtype="float32"))[list(slots)]
        scale = float("nan") if step == self._poison_at else 1.0
        return scale * (module(x.to(device)) - x[:, :2]).square().mean()


def _run(directory: Path, task: Regression, every: int = 3) -> dict[str, Tensor]:
    return train(
        task,
        LocalEngine(task.module, OPTIM),
        LocalContext(),
        optim=OPTIM,
        checkpoint_every=every,
        checkpoints=CheckpointStore(directory / "checkpoints", fingerprint="f"),
        log=MetricsLog(directory / "metrics.jsonl"),
        seed=5,
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
    assert not any("0.bias" in key for key in state), "a frozen parameter has no place in a checkpoint"
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


def test_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    _run(tmp_path, Regression())
    position = tmp_path / "checkpoints" / "step-00000010" / "position.json"
    position.write_text(position.read_text().replace('"format_version": 1', '"format_version": 7'))
    with pytest.raises(ValueError, match="checkpoint format 7, this code reads 1"):
        CheckpointStore(tmp_path / "checkpoints", fingerprint="f").latest()


def test_state_that_does_not_fit_is_named() -> None:
    small, large = nn.Linear(3, 2), nn.Linear(3, 4)
    state = LocalEngine(large, OPTIM).state()
    with pytest.raises(ValueError, match=r"'bias' is \(4,\) in the checkpoint and \(2,\) in the model"):
        LocalEngine(small, OPTIM).load_state(state, 1)


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match=r"step 7: loss nan.*checkpoint of the last finite state"):
        _run(tmp_path, Regression(poison_at=7))
    newest = CheckpointStore(tmp_path / "checkpoints", fingerprint="f").latest()
    assert newest is not None and newest.updates == 6
    assert all(torch.isfinite(value).all() for value in newest.state.values())


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

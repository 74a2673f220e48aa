"""The loop in parts: the same losses, norms and weights; parts that do not divide the slots are refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.load import load_config
from pipeline.config.schema import OptimConfig
from pipeline.episodes.sampler import philox
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.context import LocalContext
from pipeline.training.engine import LocalEngine
from pipeline.training.identity import StageName, training_fingerprint
from pipeline.training.loop import train
from pipeline.training.metrics_log import MetricsLog

OPTIM = OptimConfig(learning_rate=1e-2, steps=6, warmup_steps=2, weight_decay=0.1)


class Regression:
    """Least squares; notes which slots it was asked for."""

    slots_per_step, queries_per_slot = 6, 1

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Linear(3, 2)
        self.asked: list[list[int]] = []

    def prepare(self, step: int, slots: range, device: torch.device) -> Tensor:
        self.asked.append(list(slots))
        x = torch.from_numpy(philox(1, step).standard_normal((self.slots_per_step, 3), dtype="float32"))[list(slots)]
        return x.to(device)

    def losses(self, module: nn.Module, batch: Tensor) -> Tensor:
        error: Tensor = module(batch) - batch[:, :2]
        return error.square().mean(dim=1)

    def describe(self, step: int, slot: int) -> str:
        return f"step {step}, slot {slot}"


def _run(directory: Path, task: Regression, micro_batches: int) -> dict[str, Tensor]:
    return train(
        task,
        LocalEngine(task.module, OPTIM),
        LocalContext(),
        optim=OPTIM,
        checkpoint_every=3,
        checkpoints=CheckpointStore(directory / "checkpoints", fingerprint="f"),
        log=MetricsLog(directory / "metrics.jsonl"),
        micro_batches=micro_batches,
    )


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_a_step_in_parts_is_the_step(tmp_path: Path, parts: int) -> None:
    whole = _run(tmp_path / "whole", Regression(), 1)
    task = Regression()
    state = _run(tmp_path / "parts", task, parts)
    assert task.asked[:parts] == torch.arange(6).view(parts, -1).tolist()
    for key, value in whole.items():
        torch.testing.assert_close(state[key], value, atol=1e-6, rtol=1e-5, msg=key)
    wanted, got = (MetricsLog(tmp_path / name / "metrics.jsonl").read() for name in ("whole", "parts"))
    for field in ("loss", "gradient_norm"):
        assert [record[field] for record in got] == pytest.approx([record[field] for record in wanted], rel=1e-5)


def test_uneven_parts_stop_the_run_before_its_first_step(tmp_path: Path) -> None:
    task = Regression()
    with pytest.raises(ValueError, match=r"micro_batches=4 does not divide the 6 items.*meta\.episodes_per_step"):
        _run(tmp_path, task, 4)
    assert task.asked == []


@pytest.mark.parametrize("stage", ["pretrain_projector", "meta_train"])
def test_parts_are_no_part_of_what_the_weights_depend_on(stage: StageName) -> None:
    config, in_parts, other = (
        load_config(preset="smoke", overrides=overrides)
        for overrides in ([], ["pretrain.micro_batches=2", "meta.micro_batches=2"], ["pretrain.batch_size=30"])
    )
    assert training_fingerprint(stage, config, "u") == training_fingerprint(stage, in_parts, "u")
    assert training_fingerprint(stage, config, "u") != training_fingerprint(stage, other, "u")

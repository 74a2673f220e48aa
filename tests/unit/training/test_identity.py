"""A stage's fingerprint: what its weights depend on, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.load import override
from pipeline.config.presets import build_preset
from pipeline.training.identity import StageName, training_fingerprint

SMOKE = build_preset("smoke")


@pytest.mark.parametrize("stage", ["pretrain_projector", "meta_train"])
@pytest.mark.parametrize(
    "setting",
    [
        {"runtime.workers": 7, "runtime.zero_stage": 2},
        {"runtime.engine": "deepspeed"},
        {"meta.checkpoint_every": 9, "meta.checkpoints_kept": 5},
        {"llm.execution.compile": True, "llm.execution.max_padding": 0.5, "llm.execution.max_forward_tokens": 64},
    ],
)
def test_where_and_how_fast_it_runs_does_not_count(stage: StageName, setting: dict[str, Any]) -> None:
    changed = override(SMOKE, setting)
    assert changed != SMOKE
    assert training_fingerprint(stage, changed, "up") == training_fingerprint(stage, SMOKE, "up")


@pytest.mark.parametrize(
    ("path", "value", "stages"),
    [
        ("seed", 1, ["pretrain_projector", "meta_train"]),
        ("llm.prompt", "say : {soft} :", ["pretrain_projector", "meta_train"]),
        ("pretrain.batch_size", 16, ["pretrain_projector", "meta_train"]),
        ("hypernet.rank", 2, ["meta_train"]),
        ("episodes.queries", 2, ["meta_train"]),
    ],
)
def test_what_changes_the_weights_counts(path: str, value: Any, stages: list[StageName]) -> None:
    changed = override(SMOKE, {path: value})
    names: tuple[StageName, ...] = ("pretrain_projector", "meta_train")
    differing = [
        name for name in names if training_fingerprint(name, changed, "up") != training_fingerprint(name, SMOKE, "up")
    ]
    assert differing == stages

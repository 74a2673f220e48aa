"""Which training stages there are, and what their weights depend on.

In: the configuration.  Out: a stage's fingerprint. Nothing here imports torch: whether a stage is done must not wait.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import ExperimentConfig, LLMExecutionConfig, OptimConfig

StageName = Literal["pretrain_projector", "meta_train"]


def stage_optim(stage: StageName, config: ExperimentConfig) -> OptimConfig:
    """The optimiser settings of a stage."""
    return config.pretrain.optim if stage == "pretrain_projector" else config.meta.optim


def stage_micro_batches(stage: StageName, config: ExperimentConfig) -> int:
    """Parts of a worker's share of an update."""
    return config.pretrain.micro_batches if stage == "pretrain_projector" else config.meta.micro_batches


def training_fingerprint(stage: StageName, config: ExperimentConfig, upstream: str) -> str:
    """What a stage's weights depend on: its settings and its inputs, not on where or by how many workers it runs."""
    parts: dict[str, object] = {
        "stage": stage,
        "upstream": upstream,
        "seed": config.seed,
        "llm": replace(config.llm, execution=LLMExecutionConfig()),
        "projector": config.projector,
        # Parts bound memory; what they add up to is the same.
        "pretrain": replace(config.pretrain, micro_batches=1),
    }
    if stage == "meta_train":
        meta = config.meta
        parts |= {
            "episodes": config.episodes,
            "hypernet": config.hypernet,
            "meta": (meta.optim, meta.episodes_per_step, meta.train_projector),
        }
        # Only where it is set: what was trained before there was such a choice keeps its name.
        if (meta.modalities, meta.encoders) != (None, None):
            parts["read"] = (meta.modalities, meta.encoders)
    return fingerprint(parts)

"""What identifies each stage's result: fingerprints that form a chain.

In: the configuration and the manifests of a run's embeddings.  Out: one fingerprint a stage.

A stage's fingerprint contains its own settings and the fingerprints of what it reads, so changing anything upstream
makes the stages below it run again, and nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.artifacts import embeddings_dir
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import DesignConfig, EvaluateConfig, ExperimentConfig, Role
from pipeline.evaluation.results import RESULTS_FORMAT
from pipeline.shards import load_manifest
from pipeline.training.identity import training_fingerprint


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Fingerprints of a run's stages."""

    pretrain_projector: str
    """Stage 1."""
    meta_train: str
    """Stage 2."""
    integrate: str
    """Stage 3."""
    fits: str
    """One fit and its score, whichever other fits the protocol asks for and however their scores are summed up."""
    evaluate: str
    """Scores."""


def identities(config: ExperimentConfig, run_dir: Path) -> Identities:
    """Fingerprints of all stages."""
    paired, held_out = _content(config, run_dir, "train", "text"), _content(config, run_dir, config.evaluate.on)
    pretrain = training_fingerprint("pretrain_projector", config, paired)
    meta = training_fingerprint("meta_train", config, pretrain)
    integrate = fingerprint(("integrate", meta, held_out, config.integrate, config.seed))
    return Identities(
        pretrain_projector=pretrain,
        meta_train=meta,
        integrate=integrate,
        fits=fingerprint(("fits", RESULTS_FORMAT, meta, held_out, *fit_settings(config), config.seed)),
        evaluate=fingerprint(("evaluate", integrate, config.evaluate)),
    )


def fit_settings(config: ExperimentConfig) -> tuple[object, ...]:
    """What a fit depends on; a new field of either section counts until it is named here."""
    evaluate = replace(
        config.evaluate,
        methods=("constant",),
        folder=EvaluateConfig.folder,
        design=DesignConfig(),
        bootstrap=EvaluateConfig.bootstrap,
        confidence=EvaluateConfig.confidence,
    )
    return replace(config.integrate, shots=(1,), draws=1, encoders=None), evaluate


def _content(config: ExperimentConfig, run_dir: Path, *roles: Role) -> str:
    return fingerprint(
        [
            (dataset.name, encoder.name, load_manifest(embeddings_dir(run_dir, dataset, encoder)).content_key)
            for role in roles
            for dataset in config.datasets_of(role)
            for encoder in dataset.encoders
        ]
    )

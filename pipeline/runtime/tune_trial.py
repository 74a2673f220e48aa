"""One trial of a sweep: meta-training and few-shot scores on the validation modalities, once a rung.

In: a `TrialJob`; the sweep's embeddings and pre-trained projectors.  Out: `<trial>/steps-N/`, a run folder like any
other, and its scores. What is finished is found again, so a trial that died with its node goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.config.artifacts import StageDir
from pipeline.config.load import override
from pipeline.config.schema import ExperimentConfig
from pipeline.config.space import SearchSpace, trial_config
from pipeline.runtime.identities import identities
from pipeline.runtime.linked_run import link, pretrained_dir, score_linked, train_linked

_READ_BY_PRETRAINING = ("projector", "pretrain", "seed")
_Score = Callable[[ExperimentConfig, Path, Path, str], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """What a trial's driver needs to know."""

    config: ExperimentConfig
    """The trial's configuration."""
    root: Path
    """The project's root."""
    sweep_dir: Path
    """Folder of the sweep, shared by all nodes."""
    folder: Path
    """Folder of the trial."""
    rungs: tuple[int, ...]
    """Meta-training steps at which it is scored; the last ones are its configuration's."""
    metric: str
    """Column of the results that is the score."""


def sweep_config(config: ExperimentConfig, space: SearchSpace) -> ExperimentConfig:
    """The configuration that trials start from: one method, scored on validation modalities alone."""
    validation = config.validation or space.validation
    if not validation:
        names = [dataset.name for dataset in config.datasets if dataset.role == "train"]
        example = names[-1] if names else "NAME"
        raise ValueError(
            f"validation names no modality, and a sweep must not choose by held-out ones: give one or more of "
            f"{', '.join(names)} with --set validation='[\"{example}\"]', or `validation:` in the space file"
        )
    config = override(config, {"validation": list(validation), "evaluate.on": "validation"})
    config = override(config, {"evaluate.methods": ["semi"], "runtime.workers": space.workers})
    scored = config.datasets_of("validation")
    without = [dataset.name for dataset in scored if not dataset.source.attribute_fields]
    if without and space.metric == "attribute_accuracy":
        raise ValueError(
            f"metric 'attribute_accuracy' scores attributes, and {', '.join(without)} has no "
            "source.attribute_fields: name them, or use metric: cider_d"
        )
    return override(config, space.shared())


def pretrainings(config: ExperimentConfig, space: SearchSpace, run_dir: Path) -> dict[str, ExperimentConfig]:
    """Fingerprint -> configuration of every pre-training that trials share; a sweep over a range has none."""
    read = {path: field for path, field in space.space.items() if path.partition(".")[0] in _READ_BY_PRETRAINING}
    listed = [field.finite() for field in read.values()]
    if any(values is None for values in listed):
        return {}
    choices = [
        [*(values or ()), *([_ABSENT] if field.when else [])]
        for values, field in zip(listed, read.values(), strict=True)
    ]
    found: dict[str, ExperimentConfig] = {}
    for combination in product(*choices):
        drawn = {path: value for path, value in zip(read, combination, strict=True) if value is not _ABSENT}
        trial = trial_config(config, space, drawn)
        found.setdefault(identities(trial, run_dir).pretrain_projector, trial)
    return found


def run_trial(job: TrialJob, score: _Score) -> Iterator[dict[str, float]]:
    """Train and score at every rung, from the first steps each time: every score is that of a whole training."""
    for steps in job.rungs:
        yield _run_rung(job, steps, score)


def rung_dir(folder: Path, steps: int) -> Path:
    """Where a rung's files are."""
    return folder / f"steps-{steps:05d}"


def _run_rung(job: TrialJob, steps: int, score: _Score) -> dict[str, float]:
    optim = job.config.meta.optim
    shorter = replace(optim, steps=steps, warmup_steps=min(steps, round(optim.warmup_steps * steps / optim.steps)))
    config = replace(job.config, meta=replace(job.config.meta, optim=shorter))
    folder = rung_dir(job.folder, steps)
    folder.mkdir(parents=True, exist_ok=True)
    link(folder / "embeddings", job.sweep_dir.parent / "embeddings")
    wanted = identities(config, folder)
    shared = pretrained_dir(job.sweep_dir, wanted.pretrain_projector)
    link(folder / "pretrain_projector", shared / "pretrain_projector")
    train_linked("pretrain_projector", config, job.root, shared, wanted.pretrain_projector)
    train_linked("meta_train", config, job.root, folder, wanted.meta_train)
    stage = StageDir(folder / "evaluate")
    if not stage.is_complete(wanted.evaluate):
        stage.begin()
        stage.commit(wanted.evaluate, score(config, job.root, folder, job.metric))
    return {"steps": float(steps), **stage.info()}


def score_trial(config: ExperimentConfig, root: Path, folder: Path, metric: str) -> dict[str, float]:
    """Integrate and score every cell of the validation modalities in this process."""
    results = score_linked(config, root, folder, identities(config, folder))
    by_dataset: dict[str, list[float]] = {}
    for result in results:
        value = getattr(result, metric)
        assert value is not None, "checked by sweep_config"
        by_dataset.setdefault(result.dataset, []).append(float(value))
    return {
        "score": _mean([_mean(values) for values in by_dataset.values()]),
        "deployed_parameters": _mean([float(result.deployed_parameters) for result in results]),
        "seconds": sum(result.seconds for result in results),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_ABSENT: Any = object()

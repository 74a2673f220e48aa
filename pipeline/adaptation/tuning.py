"""Equal tuning budgets: the settings of every tunable method, searched by as many trials of the same sampler.

In: a method, a number of trials, a seed.  Out: overrides of the configuration for each trial, and the best ones.
Scores come from validation modalities (`ExperimentConfig.validation`); nothing here opens data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import qmc

from pipeline.config.schema import BUDGETS, ExperimentConfig, MethodName
from pipeline.config.space import Distribution

TUNED: tuple[MethodName, ...] = ("semi", "scratch", "finetuned_projector", "limber", "random_lora", "ridge_init")
"""Methods that are searched, one of each budget. Penalties are chosen inside the support, so they are not searched."""

SPACE: dict[str, Distribution] = {
    "steps": Distribution(choice=(30, 60, 120)),
    "learning_rate": Distribution(loguniform=(1e-4, 1e-2)),
    "batch_size": Distribution(choice=(8, 16)),
    "weight_decay": Distribution(choice=(0.0, 0.01, 0.1)),
}
"""The same four fields and ranges for every method: they differ in where training starts, not in how it is tuned. The
largest budget, 120 steps of 16 pairs, is what a protocol of thousands of fits can afford on two cores."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of a method's search."""

    method: MethodName
    """Whose settings."""
    number: int
    """Place in the sequence."""
    overrides: Mapping[str, Any]
    """Dotted path of a field -> value."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial: a score, or a reason why there is none."""

    score: float | None = None
    """On the validation modalities; None: lost."""
    error: str | None = None
    """Why it was lost."""


def trials(method: MethodName, count: int, seed: int) -> list[Trial]:
    """The first `count` points of a scrambled Halton sequence; every method of a seed gets the same points."""
    points = qmc.Halton(d=len(SPACE), rng=seed).random(count)
    return [
        Trial(
            method=method,
            number=number,
            overrides={
                f"{BUDGETS[method]}.{name}": _value(distribution, float(unit))
                for (name, distribution), unit in zip(SPACE.items(), point, strict=True)
            },
        )
        for number, point in enumerate(points)
    ]


def best_trial(done: Sequence[tuple[Trial, Outcome]]) -> Trial | None:
    """The trial with the highest score; the earliest one of equals. None where all are lost."""
    scored = [(outcome.score, -trial.number, trial) for trial, outcome in done if outcome.score is not None]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


def require_validation(config: ExperimentConfig) -> None:
    """Raise where no modality is kept out of training to choose settings by."""
    if not config.validation:
        high = [dataset.name for dataset in config.datasets_of("train")]
        raise ValueError(
            f"validation is empty: name high-resource modalities ({', '.join(high)}) that no training stage "
            "reads, such as --set validation='[\"speech\"]', and train with the same setting"
        )


def _value(distribution: Distribution, unit: float) -> Any:
    if distribution.choice is not None:
        return distribution.choice[min(int(unit * len(distribution.choice)), len(distribution.choice) - 1)]
    assert distribution.loguniform is not None
    low, high = distribution.loguniform
    return float(low * (high / low) ** unit)

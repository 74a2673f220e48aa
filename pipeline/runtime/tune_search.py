"""What the next trial of a sweep changes: grid, random draws, or Optuna's TPE over what is finished.

In: the space, a trial's number, and the trials so far.  Out: dotted paths and values.

Nothing is remembered between calls: a proposal depends on the space, the number and the records alone, so a sweep that
was killed goes on as if it had not been.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config.fingerprint import fingerprint
from pipeline.config.space import Distribution, SearchSpace, Values


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the search knows of an earlier trial."""

    values: Mapping[str, Any]
    """What it changed."""
    scores: tuple[float, ...] | None
    """The objectives; None while it runs, and where it has none."""


def propose(space: SearchSpace, number: int, observed: Sequence[Observation]) -> Values:
    """What trial `number` changes."""
    if space.search == "optuna":
        return _ask(space, number, observed)
    points = space.grid_points()
    values = dict(points[number % len(points)])
    generator = np.random.default_rng(int(fingerprint((space.seed, number)), 16))
    drawn: Values = {}
    for path, field in space.space.items():
        if path in values:
            drawn[path] = values[path]
        elif field.grid is None and field.applies(drawn):
            drawn[path] = _draw(field, generator)
    return drawn


def optuna_study(space: SearchSpace, observed: Sequence[Observation], *, sampler: Any = None) -> Any:
    """The trials so far as an Optuna study, for its samplers and its importances."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = ["maximize", *(["minimize"] if space.against else [])]
    study = optuna.create_study(directions=directions, sampler=sampler)
    for one in observed:
        params = {path: _encode(space.space[path], value) for path, value in one.values.items() if path in space.space}
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING if one.scores is None else optuna.trial.TrialState.COMPLETE,
                params=params,
                distributions={path: _distribution(space.space[path]) for path in params},
                values=None if one.scores is None else list(one.scores),
            )
        )
    return study


def _ask(space: SearchSpace, number: int, observed: Sequence[Observation]) -> Values:
    import optuna

    # Few trials are what these sweeps have: half of them, at most ten, are drawn at random first.
    sampler = optuna.samplers.TPESampler(
        seed=int(fingerprint((space.seed, number)), 16) % 2**32, n_startup_trials=max(1, min(10, space.trials() // 2))
    )
    trial = optuna_study(space, observed, sampler=sampler).ask()
    drawn: Values = {}
    for path, field in space.space.items():
        if field.applies(drawn):
            drawn[path] = _suggest(trial, path, field)
    return drawn


def _suggest(trial: Any, path: str, field: Distribution) -> Any:
    if (listed := field.finite()) is not None:
        chosen = trial.suggest_categorical(path, [json.dumps(value) for value in listed])
        return next(value for value in listed if json.dumps(value) == chosen)
    if field.integers is not None:
        return trial.suggest_int(path, *field.integers)
    low, high = field.loguniform or field.uniform or (0.0, 1.0)
    return trial.suggest_float(path, low, high, log=field.loguniform is not None)


def _draw(field: Distribution, generator: np.random.Generator) -> Any:
    if field.choice is not None:
        return field.choice[int(generator.integers(len(field.choice)))]
    if field.integers is not None:
        return int(generator.integers(field.integers[0], field.integers[1] + 1))
    if field.loguniform is not None:
        return float(np.exp(generator.uniform(*np.log(field.loguniform))))
    assert field.uniform is not None
    return float(generator.uniform(*field.uniform))


def _distribution(field: Distribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if (listed := field.finite()) is not None:
        return CategoricalDistribution([json.dumps(value) for value in listed])
    if field.integers is not None:
        return IntDistribution(*field.integers)
    if field.loguniform is not None:
        return FloatDistribution(*field.loguniform, log=True)
    assert field.uniform is not None
    return FloatDistribution(*field.uniform)


def _encode(field: Distribution, value: Any) -> Any:
    """Optuna's categories are plain values: lists go as JSON."""
    return json.dumps(value) if field.finite() is not None else value

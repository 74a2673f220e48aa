"""Search spaces: which fields of a configuration a sweep varies, declared in YAML.

In: a file of `tune_spaces/` and the configuration that the sweep starts from.
Out: a `SearchSpace` whose every path and extreme value was tried on that configuration, or a `ConfigError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from pipeline.config.errors import ConfigError, explain
from pipeline.config.load import flatten, override, read_yaml, to_tree
from pipeline.config.schema import STRICT, ExperimentConfig, Name

Value = bool | int | float | str | None | tuple[int, ...]
Values = dict[str, Any]
"""Dotted path -> value: what one trial changes."""
KINDS = ("grid", "choice", "uniform", "loguniform", "integers")
FIXED_SECTIONS = (
    "name", "runs_dir", "miniature", "datasets", "validation", "text_encoder", "llm", "extract", "evaluate", "runtime",
    "tracking",
)  # fmt: skip
"""What trials share: the data, the yardstick, and where they run."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Distribution:
    """What one field is drawn from; exactly one of the five is set."""

    grid: Annotated[tuple[Value, ...], Field(min_length=1)] | None = None
    """Values that are all tried, crossed with those of the other grids."""
    choice: Annotated[tuple[Value, ...], Field(min_length=1)] | None = None
    """Values drawn with equal probability."""
    uniform: tuple[float, float] | None = None
    """Lowest and highest value of a real number."""
    loguniform: tuple[float, float] | None = None
    """The same, uniform in the logarithm."""
    integers: tuple[int, int] | None = None
    """Lowest and highest value of an integer, both drawn."""
    when: dict[str, Annotated[tuple[Value, ...], Field(min_length=1)]] | None = None
    """Drawn only where these fields, listed before it, have one of these values; elsewhere it stays as it is."""

    @model_validator(mode="after")
    def _one_ordered_range(self) -> Distribution:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}; got {', '.join(given) or 'none'}")
        if self.choice is not None and len(self.choice) < 2:
            raise ValueError(f"choice needs two values or more, got {list(self.choice)}: put one under `fixed`")
        bounds = self.uniform or self.loguniform or self.integers
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"{given[0]} must be [lowest, highest] with lowest < highest, got {list(bounds)}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform must start above 0, got {list(self.loguniform)}")
        return self

    def extremes(self) -> tuple[Value, ...]:
        """Values that must all be legal for every drawn value to be so."""
        for kind in KINDS:
            values: tuple[Value, ...] | None = getattr(self, kind)
            if values is not None:
                return values
        raise AssertionError("checked at construction")

    def finite(self) -> tuple[Value, ...] | None:
        """All values, where they can be listed."""
        return self.grid or self.choice

    def applies(self, drawn: Mapping[str, Any]) -> bool:
        """Whether the field is drawn, given the fields before it."""
        return all(path in drawn and drawn[path] in allowed for path, allowed in (self.when or {}).items())


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchSpace:
    """A sweep: what is varied, how it is searched, and what is compared."""

    metric: Literal["attribute_accuracy", "cider_d"] = "attribute_accuracy"
    """Few-shot score on the validation modalities that trials are compared by; more is better."""
    against: Literal["deployed_parameters"] | None = None
    """What is minimised beside it (`search: optuna` then looks for the Pareto front); None: the score alone."""
    search: Literal["grid", "random", "optuna"] = "random"
    """`grid`: every combination; `random`: independent draws; `optuna`: draws that learn from finished trials (TPE)."""
    scheduler: Literal["none", "asha", "median"] = "none"
    """Which trials stop early, by their scores after each of `rungs`; `none`: no trial does."""
    rungs: tuple[PositiveInt, ...] = ()
    """Meta-training steps, rising, at which a trial is trained anew and scored before it goes on to the configured
    ones; the schedulers compare there."""
    samples: PositiveInt = 1
    """Draws for each combination of the grids: trials where there are none."""
    seed: int = 0
    """Root of the draws."""
    validation: tuple[Name, ...] = ()
    """Modalities that score the trials where the configuration names none in `validation`."""
    workers: PositiveInt = 1
    """Training workers a trial: trials beside each other use a cluster better than workers of one trial."""
    concurrent: PositiveInt | None = None
    """Trials at once; None: as many as the cluster holds."""
    fixed: dict[str, Any] = Field(default_factory=dict)
    """Dotted path -> value that all trials share, and the best configuration too."""
    shortened: dict[str, Any] = Field(default_factory=dict)
    """The same for what only trials have, such as fewer steps: the best configuration keeps the values it came with."""
    space: dict[str, Distribution]
    """Dotted path of a configuration field -> distribution of its value."""

    @model_validator(mode="after")
    def _search_serves_it(self) -> SearchSpace:
        grids = [path for path, field in self.space.items() if field.grid]
        if self.search == "grid" and (drawn := [path for path in self.space if path not in grids]):
            raise ValueError(f"search 'grid' takes grids only, and {', '.join(drawn)} is drawn: use search 'random'")
        if self.search == "optuna" and grids:
            raise ValueError(f"search 'optuna' draws, and {', '.join(grids)} is a grid: use choice")
        if self.scheduler != "none" and not self.rungs:
            raise ValueError(f"scheduler {self.scheduler!r} compares trials at `rungs`, and none are given")
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs must rise, got {list(self.rungs)}")
        return self

    @model_validator(mode="after")
    def _each_path_once(self) -> SearchSpace:
        if not self.space:
            raise ValueError("space is empty: give at least one field and what it is drawn from")
        named = [*self.space, *self.fixed, *self.shortened]
        if twice := sorted({path for path in named if named.count(path) > 1}):
            raise ValueError(f"{', '.join(twice)} stands in two of space, fixed and shortened: name each field once")
        seen: set[str] = set()
        for path, field in self.space.items():
            if missing := [other for other in field.when or {} if other not in seen]:
                raise ValueError(f"space.{path}.when names {', '.join(missing)}, which must be listed before it")
            seen.add(path)
        return self

    def grid_points(self) -> list[Values]:
        """Every combination of the grids; a point lacks what does not apply to it."""
        points: list[Values] = [{}]
        for path, field in self.space.items():
            if field.grid is not None:
                points = [
                    {**point, path: value} if field.applies(point) else point
                    for point in points
                    for value in (field.grid if field.applies(point) else field.grid[:1])
                ]
        return points

    def shared(self) -> Values:
        """What all trials have."""
        return {**self.fixed, **self.shortened}

    def trials(self) -> int:
        """How many trials the sweep has."""
        return len(self.grid_points()) * self.samples


def load_space(file: Path, base: ExperimentConfig) -> SearchSpace:
    """Read a search space and try each field's extreme values on `base`."""
    tree = read_yaml(file)
    if tree.get("scheduler") == "pbt":
        raise ConfigError(
            f"tune space {file}: scheduler 'pbt' is left out: trials that are Ray Train runs cannot clone each "
            "other's checkpoints; use asha or median"
        )
    try:
        space = TypeAdapter(SearchSpace).validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"tune space {file}: {explain(error, SearchSpace)}") from None
    for path in (*space.space, *space.shared()):
        if path.partition(".")[0] in FIXED_SECTIONS:
            raise ConfigError(
                f"tune space {file}: {path} cannot be varied: trials share the sections {', '.join(FIXED_SECTIONS)}; "
                "set it for the whole sweep with --set"
            )
    try:
        prepared = override(base, space.shared())
        for values in _tried(space):
            steps = override(prepared, values).meta.optim.steps
            if space.rungs and space.rungs[-1] >= steps:
                raise ConfigError(f"rungs must lie below meta.optim.steps ({steps}), got {space.rungs[-1]}")
    except ConfigError as error:
        raise ConfigError(f"tune space {file}: {error}") from None
    return space


def trial_config(base: ExperimentConfig, space: SearchSpace, values: Mapping[str, Any]) -> ExperimentConfig:
    """The configuration of a trial: `base`, what all trials share, and what this one has drawn."""
    return override(base, {**space.shared(), **values})


def changed_values(base: ExperimentConfig, config: ExperimentConfig) -> Values:
    """Dotted path -> value of what `config` has otherwise than `base`."""
    before = flatten(to_tree(base))
    return {path: value for path, value in flatten(to_tree(config)).items() if before.get(path) != value}


def _tried(space: SearchSpace) -> Iterator[Values]:
    """Each field's extreme values, under the conditions that it is drawn in, and every combination of the grids."""
    for path, field in space.space.items():
        for value in field.extremes():
            yield {**{other: allowed[0] for other, allowed in (field.when or {}).items()}, path: value}
    yield from space.grid_points()

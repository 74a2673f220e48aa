"""Search spaces: which fields of a configuration a sweep varies, declared in YAML.

In: a file of `tune_spaces/` and the configuration that the sweep starts from.
Out: a `SearchSpace` whose every path and extreme value was tried on that configuration, or a `ConfigError`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from pipeline.config.errors import ConfigError, explain
from pipeline.config.load import override, read_yaml
from pipeline.config.schema import STRICT, ExperimentConfig

Value = bool | int | float | str | None | tuple[int, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Distribution:
    """What one field is drawn from; exactly one of the four is set."""

    uniform: tuple[float, float] | None = None
    """Lowest and highest value of a real number."""
    loguniform: tuple[float, float] | None = None
    """The same, uniform in the logarithm."""
    integers: tuple[int, int] | None = None
    """Lowest and highest value of an integer, both drawn."""
    choice: Annotated[tuple[Value, ...], Field(min_length=2)] | None = None
    """Values drawn with equal probability."""

    @model_validator(mode="after")
    def _one_ordered_range(self) -> Distribution:
        given = [name for name in ("uniform", "loguniform", "integers", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of uniform, loguniform, integers, choice; got {', '.join(given) or 'none'}"
            )
        bounds = self.uniform or self.loguniform or self.integers
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"{given[0]} must be [lowest, highest] with lowest < highest, got {list(bounds)}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform must start above 0, got {list(self.loguniform)}")
        return self

    def extremes(self) -> tuple[Value, ...]:
        """Values that must all be legal for every drawn value to be so."""
        for values in (self.uniform, self.loguniform, self.integers, self.choice):
            if values is not None:
                return values
        raise AssertionError("checked at construction")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SearchSpace:
    """A sweep: what is varied and what is compared."""

    metric: str
    """Metric that a trial reports."""
    mode: Literal["min", "max"]
    """Whether less or more of it is better."""
    samples: PositiveInt
    """Trials."""
    space: Annotated[dict[str, Distribution], Field(min_length=1)]
    """Dotted path of a configuration field -> distribution of its value."""


def load_space(file: Path, base: ExperimentConfig) -> SearchSpace:
    """Read a search space and try each field's extreme values on `base`."""
    try:
        space = TypeAdapter(SearchSpace).validate_json(json.dumps(read_yaml(file), default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"tune space {file}: {explain(error, SearchSpace)}") from None
    for path, distribution in space.space.items():
        for value in distribution.extremes():
            _try(base, path, value, file)
    return space


def _try(base: ExperimentConfig, path: str, value: Any, file: Path) -> None:
    try:
        override(base, {path: value})
    except ConfigError as error:
        raise ConfigError(f"tune space {file}: {error}") from None

"""The section of ablations: variants of a configuration, each otherwise than its reference in one respect.

In: plain values.  Out: `AblateConfig`; `pipeline.config.variants` tries every variant on the configuration.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.config.types import STRICT, Name

REFERENCE = "base"
"""What the reference of a factor is called."""
Changes = dict[str, Any]
"""Dotted path -> value."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FactorConfig:
    """One respect in which variants differ from a reference."""

    name: Name
    """Name of the factor."""
    base: Changes = field(default_factory=dict, hash=False)
    """What the reference has otherwise than the configuration, and its variants too; empty: the configuration."""
    variants: Annotated[dict[Name, Changes], Field(min_length=1)] = field(hash=False)
    """Name of a variant -> what it has otherwise than the reference."""
    note: str = ""
    """What a reader of the table should know."""

    @model_validator(mode="after")
    def _reference_is_taken(self) -> FactorConfig:
        if REFERENCE in self.variants:
            raise ValueError(f"variants: {REFERENCE!r} is what the reference is called: choose another name")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AblateConfig:
    """Job `ablate`: what is varied, one factor at a time."""

    factors: tuple[FactorConfig, ...] = ()
    """The factors; none: there is nothing to ablate."""

    @model_validator(mode="after")
    def _unique_names(self) -> AblateConfig:
        names = [factor.name for factor in self.factors]
        if REFERENCE in names or len(set(names)) < len(names):
            raise ValueError(f"factors must have different names, none of them {REFERENCE!r}, got {', '.join(names)}")
        return self

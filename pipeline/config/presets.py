"""Presets: typed functions that return a full configuration."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config.errors import ConfigError
from pipeline.config.schema import ExperimentConfig

PRESETS: dict[str, Callable[[], ExperimentConfig]] = {}


def build_preset(name: str) -> ExperimentConfig:
    """The configuration of a preset; an unknown name fails with the valid ones."""
    if name not in PRESETS:
        raise ConfigError(f"preset: expected one of {', '.join(sorted(PRESETS))}, got {name!r}")
    return PRESETS[name]()

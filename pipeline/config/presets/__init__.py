"""Presets: typed functions that return a full configuration.

In: a preset's name.  Out: an `ExperimentConfig`, or a `ConfigError` that lists the names there are.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config.errors import ConfigError
from pipeline.config.presets.miniature import miniature, smoke
from pipeline.config.presets.paper import paper_llama1b
from pipeline.config.presets.protocols import ablations, sample_efficiency
from pipeline.config.schema import ExperimentConfig

PRESETS: dict[str, Callable[[], ExperimentConfig]] = {
    "miniature": miniature,
    "smoke": smoke,
    "paper_llama1b": paper_llama1b,
    "sample_efficiency": sample_efficiency,
    "ablations": ablations,
}


def build_preset(name: str) -> ExperimentConfig:
    """The configuration of a preset; an unknown name fails with the valid ones."""
    if name not in PRESETS:
        raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]()

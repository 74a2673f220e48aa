"""Configuration from a preset, a YAML file and dotted overrides, all through one check.

In: a preset's name, a YAML file (whole, or partial on top of a preset), overrides such as `meta.optim.steps=100`.
Out: an `ExperimentConfig`, or a `ConfigError` of one line that names the field, the value and what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.config.errors import ConfigError, explain
from pipeline.config.presets import build_preset
from pipeline.config.schema import ExperimentConfig

Tree = dict[str, Any]


def load_config(
    *, preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = ()
) -> ExperimentConfig:
    """Resolve a configuration; later sources win: preset, then file, then overrides in their order."""
    from_file = read_yaml(file) if file is not None else {}
    named = from_file.pop("preset", None)
    if named is not None and preset is not None and named != preset:
        raise ConfigError(f"preset: the command line says {preset!r}, {file} says {named!r}: give one of them")
    preset = preset if preset is not None else named
    base = to_tree(build_preset(preset)) if preset is not None else {}
    return _checked(reduce(_merged, (from_file, *map(_parse_override, overrides)), base))


def override(config: ExperimentConfig, values: Mapping[str, Any]) -> ExperimentConfig:
    """A copy of `config` with dotted fields replaced, checked like everything else."""
    return _checked(reduce(_merged, (_nested(path, value) for path, value in values.items()), to_tree(config)))


def to_tree(config: ExperimentConfig) -> Tree:
    """The configuration as plain mappings, lists and values."""
    tree: Tree = _adapter().dump_python(config, mode="json")
    return tree


def to_yaml(config: ExperimentConfig) -> str:
    """YAML text that `load_config(file=...)` reads back to an equal configuration."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, width=110, allow_unicode=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value of every leaf; lists are leaves (what overrides address and what tracking logs)."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and value
        flat.update(flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return flat


def read_yaml(file: Path) -> Tree:
    """The mapping that a YAML file holds."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    tree = _parse_yaml(text, str(file))
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} must hold a mapping of sections, got {type(tree).__name__}")
    return tree


@cache
def _adapter() -> TypeAdapter[ExperimentConfig]:
    return TypeAdapter(ExperimentConfig)


def _checked(tree: Tree) -> ExperimentConfig:
    try:
        # Strict JSON rules: a list is a tuple and 1 is a float, but "3", true or 3.0 is no integer.
        return _adapter().validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, ExperimentConfig)) from None


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> Tree:
    result = dict(base)
    for key, value in top.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result


def _nested(path: str, value: Any) -> Tree:
    return reduce(lambda inner, key: {key: inner}, reversed(path.split(".")), value)


def _parse_override(text: str) -> Tree:
    path, equals, value = text.partition("=")
    if not equals or not all(path.strip().split(".")):
        raise ConfigError(f"override {text!r} is not of the form a.b=value")
    return _nested(path.strip(), _parse_yaml(value, f"override {text!r}"))


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-4` as a number and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in _scalar_keys(node):
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _scalar_keys(node: yaml.MappingNode) -> Iterable[str]:
    return (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))


# YAML 1.1 wants a dot in 1.0e-4; people and papers write 1e-4.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

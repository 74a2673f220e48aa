"""What is wrong with a configuration, in one line.

In: pydantic's `ValidationError` and the dataclass at the root of the tree.
Out: text that names the dotted field, the value got, and what is allowed (for an unknown key: the valid ones).
"""

from __future__ import annotations

import difflib
import reprlib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError

MAX_PROBLEMS = 3
UNKNOWN_KEY = "unexpected_keyword_argument"  # pydantic's name of it


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for the user."""


def explain(error: ValidationError, root: type[Any]) -> str:
    """The first few problems of `error`, joined into one line."""
    # Unknown keys first: a misspelt key is often why another one is missing.
    found = sorted(error.errors(include_url=False), key=lambda details: details["type"] != UNKNOWN_KEY)
    problems = [_problem(details, root) for details in found]
    shown = "; ".join(problems[:MAX_PROBLEMS])
    hidden = len(problems) - MAX_PROBLEMS
    return f"{shown}; and {hidden} more" if hidden > 0 else shown


def known_keys(root: type[Any], location: Sequence[str | int]) -> list[str]:
    """Keys of the section at `location`; empty where that is no section."""
    section = _section_at(root, location)
    return list(get_type_hints(section)) if section is not None else []


def dotted_paths(root: type[Any], prefix: str = "") -> Iterator[str]:
    """Every dotted path below `root` that an override can address."""
    for key, hint in get_type_hints(root).items():
        path = f"{prefix}{key}"
        section = _section_of(hint)
        if section is None:
            yield path
        else:
            yield from dotted_paths(section, f"{path}.")


def _problem(details: Mapping[str, Any], root: type[Any]) -> str:
    location, kind, message = details["loc"], details["type"], str(details["msg"])
    path = ".".join(map(str, location))
    if kind == UNKNOWN_KEY:
        return _unknown_key(location, root)
    if kind == "missing":
        return f"{path}: missing; this field has no default"
    if kind in ("value_error", "assertion_error"):
        text = message.partition(", ")[2]
        return f"{path}: {text}" if path else text
    if kind == "too_short":
        least = details["ctx"]["min_length"]
        message = f"Input should be a list of at least {least} value{'s' if least > 1 else ''}"
    expected = message.removeprefix("Input should be ")
    rule = f"expected {expected}" if expected != message else message[:1].lower() + message[1:]
    value = details["input"]
    return f"{path}: {rule}, got {reprlib.repr(value)} ({type(value).__name__})"


def _unknown_key(location: Sequence[str | int], root: type[Any]) -> str:
    *parents, key = location
    where = f"in {'.'.join(map(str, parents))}" if parents else "at the top level"
    valid = known_keys(root, parents)
    # The right name in the wrong section is as common a slip as a typo.
    elsewhere = [path for path in dotted_paths(root) if path.rpartition(".")[2] == key]
    nearest = difflib.get_close_matches(str(key), valid, n=1) or elsewhere[:1]
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"unknown key {key!r} {where}: {hint}valid keys: {', '.join(valid)}"


def _section_at(root: type[Any], location: Sequence[str | int]) -> type[Any] | None:
    hint: Any = root
    for step in location:
        section = _section_of(hint)
        # In a container the step is an index or a key, and the element's type is its last argument.
        hint = get_type_hints(section).get(str(step)) if section else _arguments(hint)[-1]
    return _section_of(hint)


def _section_of(hint: Any) -> type[Any] | None:
    if isinstance(hint, type):
        return hint if is_dataclass(hint) else None
    if get_origin(hint) in (types.UnionType, Union):
        return next((section for section in map(_section_of, get_args(hint)) if section is not None), None)
    return None


def _arguments(hint: Any) -> list[Any]:
    return [argument for argument in get_args(hint) if argument is not Ellipsis] or [None]

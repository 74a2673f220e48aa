"""A configuration as the flat, short, harmless names and texts that a tracking server keeps.

In: dataclasses, mappings, sequences and plain values, nested.  Out: `{"meta.optim.steps": "800", ...}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import pairwise

MAX_VALUE = 500
"""Longer values are cut: older servers refuse them, and nobody reads them in a table."""
_CUT = " ... (cut)"
_HIDDEN = "***"
_SECRET_WORDS = frozenset(
    {"token", "secret", "password", "passwd", "passphrase", "credential", "credentials", "apikey"}
)
_SECRET_PAIRS = frozenset({("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key")})
# Also without a user name: `https://<token>@host`.
_USER_INFO = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)[^/\s@]+@")
_BAD_IN_NAME = re.compile(r"[^\w\-./: ]")


def flatten(values: object, prefix: str = "") -> dict[str, str]:
    """Dotted names to texts; items of a sequence go by their `name` where all have one, else by number."""
    return dict(_walk(values, prefix))


def redact(text: str) -> str:
    """`text` without the user and password of the addresses in it."""
    return _USER_INFO.sub(rf"\g<scheme>{_HIDDEN}@", text)


def _walk(value: object, name: str) -> Iterator[tuple[str, str]]:
    children = _children(value)
    if children is None:
        yield _BAD_IN_NAME.sub("_", name), _text(name, value)
        return
    for key, child in children.items():
        yield from _walk(child, f"{name}.{key}" if name else str(key))


def _children(value: object) -> Mapping[str, object] | None:
    """What lies below `value`; None for what is written as one text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): child for key, child in value.items()}
    if isinstance(value, list | tuple) and any(_children(child) is not None for child in value):
        names = [getattr(child, "name", None) for child in value]
        unique = all(isinstance(each, str) for each in names) and len(set(names)) == len(names)
        return dict(zip(map(str, names if unique else range(len(value))), value, strict=True))
    return None


def _text(name: str, value: object) -> str:
    if value is not None and isinstance(value, str | bytes) and _is_secret(name):
        return _HIDDEN
    text = redact(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - len(_CUT)] + _CUT


def _is_secret(name: str) -> bool:
    words = re.split(r"[^a-z0-9]+", name.rpartition(".")[2].lower())
    return not _SECRET_WORDS.isdisjoint(words) or not _SECRET_PAIRS.isdisjoint(pairwise(words))

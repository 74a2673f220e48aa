"""A short, stable name for a value, and the hash of a file.

In: dataclasses, mappings, sequences, paths and plain values, nested as you like; or a file.
Out: 16 hex digits of the SHA-256 of their canonical JSON; equal in every process and on every machine. A file's whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any


def fingerprint(value: Any) -> str:
    """16 hex digits that change whenever `value` changes; sequences compare by content, mappings without order."""
    text = json.dumps(value, default=_plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read block by block."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, PurePath):
        return value.as_posix()
    # Sets in particular: their order differs from process to process.
    raise TypeError(
        f"cannot fingerprint a {type(value).__name__}: use dataclasses, mappings, sequences or plain values"
    )

"""Which files a mirrored folder has: the store's index, and a machine's memory of it.

In: sizes, hashes and times.  Out: JSON, and what it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.places import one_line

FORMAT = 1


@dataclass(frozen=True, slots=True)
class MirroredFile:
    """What a file holds."""

    size: int
    """Bytes."""
    sha256: str
    """Of its content."""
    mtime_ns: int = 0
    """Of the local file when it had this content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Which files there are; the store's index, and this machine's memory of it."""

    sequence: int = 0
    """Grows with every index that is written."""
    whole: bool = True
    """False: the folder is being made equal to it."""
    files: Mapping[str, MirroredFile] = field(default_factory=dict)
    """By path relative to the folder."""

    def text(self) -> str:
        """As it is stored."""
        files = {name: [file.size, file.sha256, file.mtime_ns] for name, file in sorted(self.files.items())}
        return json.dumps({"format": FORMAT, "sequence": self.sequence, "whole": self.whole, "files": files}) + "\n"

    @classmethod
    def of(cls, text: bytes, name: str) -> Snapshot:
        """What was stored; `ValueError` where it was something else, or would write outside the folder."""
        try:
            found = json.loads(text)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']!r}, this code reads {FORMAT}")
            files = {path: MirroredFile(*values) for path, values in found["files"].items()}
            if outside := [path for path in files if Path(path).is_absolute() or ".." in Path(path).parts]:
                raise ValueError(f"{outside[0]!r} leads elsewhere")
            return cls(sequence=found["sequence"], whole=found["whole"], files=files)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name} is not the index of a run ({one_line(error)}): choose another folder") from error

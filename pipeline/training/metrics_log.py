"""The metrics of a training run as a file: one JSON object a step.

The worker of rank 0 appends; whoever shows progress or feeds MLflow follows the file. Training never waits for either,
and what a tracking server missed is still on disk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
"""Name of the file in a stage's folder."""
Record = dict[str, Any]


class MetricsLog:
    """Append-only JSONL with a `step` in every record."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def truncate(self, steps: int) -> None:
        """Forget the records of steps >= `steps`: a resumed run writes them again."""
        kept = [record for record in self.read() if record["step"] < steps]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text("".join(json.dumps(record) + "\n" for record in kept))
        scratch.replace(self.path)

    def append(self, record: Record) -> None:
        """Add one step's record."""
        with self.path.open("a") as handle:
            handle.write(json.dumps(record) + "\n")

    def read(self) -> list[Record]:
        """All records."""
        return MetricsFollower(self.path).poll()


class MetricsFollower:
    """Reads what was appended since the last look; starts over where the file was replaced (a resumed run)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._position, self._seen = -1, 0, -1

    def poll(self) -> list[Record]:
        """New records, each step once."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as handle:
            inode = os.fstat(handle.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._position = inode, 0
            handle.seek(self._position)
            text = handle.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._position += len(complete)
        records = [json.loads(line) for line in complete.splitlines()]
        fresh = [record for record in records if record["step"] > self._seen]
        if fresh:
            self._seen = fresh[-1]["step"]
        return fresh

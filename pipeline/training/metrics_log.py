"""The metrics of a training run as a file: one JSON object a step.

The worker of rank 0 appends; whoever shows progress or feeds MLflow follows the file. Training never waits for either,
and what a tracking server missed is still on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        return list(self._records(0)) if self.path.exists() else []

    def follow(self, position: int) -> tuple[list[Record], int]:
        """Records behind byte `position`, and the position behind them; (all, new end) where the file was cut."""
        if not self.path.exists():
            return [], 0
        if self.path.stat().st_size < position:
            position = 0
        with self.path.open("rb") as handle:
            handle.seek(position)
            text = handle.read()
        complete = text[: text.rfind(b"\n") + 1]
        return [json.loads(line) for line in complete.splitlines()], position + len(complete)

    def _records(self, position: int) -> Iterator[Record]:
        yield from self.follow(position)[0]

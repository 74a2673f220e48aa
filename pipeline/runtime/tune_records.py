"""The trials of a sweep on disk: a folder a trial, named by number and values, with one record in it.

In: what the sweep's driver tells it; it alone writes.  Out: `trial.json` a trial, each written whole, and a table.

The records are what a sweep is resumed from: Ray's own snapshots are seconds old when a driver is killed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.artifacts import write_text_atomic
from pipeline.config.space import SearchSpace, Values
from pipeline.runtime.tune_search import Observation

RECORD = "trial.json"
TABLE = "trials.parquet"
State = Literal["running", "finished", "stopped", "failed"]
"""`stopped`: by the scheduler."""
_NAME_LENGTH = 80


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial."""

    number: int
    """From 0, in the order in which they began."""
    values: Values
    """What it changes."""
    state: State = "running"
    """How it ended, if it has."""
    results: tuple[dict[str, float], ...] = field(default=())
    """What it reported at each rung: steps, score, deployed_parameters, seconds."""
    error: str | None = None
    """Why it failed."""

    @property
    def name(self) -> str:
        """Number and values, as people read them; the folder's name too."""
        parts = [f"{path.rpartition('.')[2]}={_short(value)}" for path, value in self.values.items()]
        return "-".join([f"{self.number:04d}", *parts])[:_NAME_LENGTH].rstrip("-=.,")

    @property
    def score(self) -> float | None:
        """At the last rung that it reached."""
        return self.results[-1]["score"] if self.results else None

    def to_json(self) -> str:
        """What `from_json` reads back."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> TrialRecord:
        """The record as it was; lists among the values are tuples."""
        stored = json.loads(text)
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in stored["values"].items()}
        return TrialRecord(**stored | {"values": values, "results": tuple(stored["results"])})


class Watch(Protocol):
    """What is told of trials, each time before the record says it: a killed sweep tells it again."""

    def begin(self, record: TrialRecord) -> None:
        """A trial begins, or goes on after a crash."""

    def report(self, record: TrialRecord) -> None:
        """A trial has reached a rung: the last of its results."""

    def end(self, record: TrialRecord) -> None:
        """The trial's state is final."""


class TrialRecords:
    """All trials of a sweep."""

    def __init__(self, directory: Path, space: SearchSpace) -> None:
        self.directory, self._space = directory, space
        self._records = {record.number: record for record in _read(directory)}

    def all(self) -> list[TrialRecord]:
        """By number."""
        return [self._records[number] for number in sorted(self._records)]

    def unfinished(self) -> list[TrialRecord]:
        """Trials that a killed driver left."""
        return [record for record in self.all() if record.state == "running"]

    def retry_failed(self) -> list[TrialRecord]:
        """Failed trials as if a killed driver had left them: they go on in their folders, with the rungs they have."""
        failed = [record for record in self.all() if record.state == "failed"]
        return [self.put(replace(record, state="running", error=None)) for record in failed]

    def folder(self, record: TrialRecord) -> Path:
        """Where the trial's files are."""
        return self.directory / record.name

    def put(self, record: TrialRecord) -> TrialRecord:
        """Add or replace a trial."""
        folder = self.folder(record)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / RECORD, record.to_json())
        self._records[record.number] = record
        return record

    def get(self, number: int) -> TrialRecord:
        """One of them."""
        return self._records[number]

    def observations(self) -> list[Observation]:
        """What a search learns from: scores of whole trials; failed and stopped ones say nothing comparable."""
        return [
            Observation(values=record.values, scores=objectives(record, self._space))
            for record in self.all()
            if record.state in ("finished", "running")
        ]

    def write_table(self, path: Path) -> None:
        """One row a trial: its values as columns, JSON where they are lists."""
        rows = [_row(record, self.folder(record), self._space) for record in self.all()]
        pq.write_table(pa.Table.from_pylist(rows), path)


def objectives(record: TrialRecord, space: SearchSpace) -> tuple[float, ...] | None:
    """The score, and what is minimised beside it; None for a trial that has not finished."""
    if record.state != "finished":
        return None
    last = record.results[-1]
    return (last["score"], last[space.against]) if space.against else (last["score"],)


def finished(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that were trained and scored in full."""
    return [record for record in records if record.state == "finished"]


def pareto(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Finished trials that no other beats in score without more deployed parameters; fewest parameters first."""
    front: list[TrialRecord] = []
    for record in sorted(finished(records), key=lambda r: (r.results[-1]["deployed_parameters"], -(r.score or 0.0))):
        if not front or (record.score or 0.0) > (front[-1].score or 0.0):
            front.append(record)
    return front


def _row(record: TrialRecord, folder: Path, space: SearchSpace) -> dict[str, Any]:
    last = record.results[-1] if record.results else {}
    row: dict[str, Any] = {"number": record.number, "name": record.name, "state": record.state}
    for path in space.space:
        value = record.values.get(path)
        row[path] = json.dumps(value) if space.space[path].finite() is not None and value is not None else value
    numbers = {key: last.get(key) for key in ("steps", "score", "deployed_parameters", "seconds")}
    return row | numbers | {"error": record.error, "folder": folder.name}


def _read(directory: Path) -> list[TrialRecord]:
    paths = sorted(directory.glob(f"*/{RECORD}"))
    return [TrialRecord.from_json(path.read_text(encoding="utf-8")) for path in paths]


def _short(value: Any) -> str:
    text = (
        f"{value:.3g}" if isinstance(value, float) else "_".join(map(str, value)) if isinstance(value, tuple) else value
    )
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", str(text))

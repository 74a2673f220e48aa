"""What is to be captioned: files, folders and tables, without captions of their own.

In: paths, and which column of a table holds the signal.  Out: one `RawInput` each file or row, in order; a row that has
no signal comes with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import SignalKind
from pipeline.data.places import LocalPlace
from pipeline.data.sample import Payload
from pipeline.data.tables import BrokenRow, Row, open_table

_TABLES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
_INLINE: tuple[SignalKind, ...] = ("text", "molecule", "vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawInput:
    """One signal to be captioned."""

    id: str
    """Its path, or what the table calls it."""
    signal: Path | Payload | None
    """A file, its bytes, a text or a vector; None: there is none."""
    problem: str | None = None
    """Why there is none."""
    adapter: str | None = None
    """Which adapter the table asks for."""


def read_inputs(
    path: Path, kind: SignalKind, *, column: str, id_column: str | None = None, adapter_column: str | None = None
) -> Iterator[RawInput]:
    """The inputs that a path names: itself, the files below a folder, or the rows of a table.

    A CSV is a table, unless the signals are series, whose own files are CSV: then it needs a column named `column`.
    """
    if not path.exists():
        raise ValueError(f"--input {path}: no such file or folder")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        if not files:
            raise ValueError(f"--input {path}: no file in that folder")
        for file in files:
            yield RawInput(id=str(file), signal=file)
    elif path.suffix.lower() in _TABLES and not (kind == "series" and _is_series(path, column)):
        yield from _rows(path, kind, column, id_column, adapter_column)
    else:
        yield RawInput(id=str(path), signal=path)


def _is_series(path: Path, column: str) -> bool:
    return path.suffix.lower() == ".csv" and column not in open_table(LocalPlace(path), "csv").columns


def _rows(
    path: Path, kind: SignalKind, column: str, id_column: str | None, adapter_column: str | None
) -> Iterator[RawInput]:
    table = open_table(LocalPlace(path), _TABLES[path.suffix.lower()])
    wanted = [name for name in (column, id_column, adapter_column) if name is not None]
    for name in wanted:
        if name not in table.columns:
            raise ValueError(
                f"--input {path}: no column {name!r}; it has {', '.join(sorted(table.columns))}: name the column with "
                f"{'--field' if name == column else '--id-field' if name == id_column else '--adapter-field'}"
            )
    names = id_column or ("id" if "id" in table.columns else None)
    columns = tuple(dict.fromkeys([*wanted, *([names] if names else [])]))
    for index, row in enumerate(table.rows(0, len(table), columns)):
        yield _input(path, kind, row, index, column, names, adapter_column)


def _input(
    path: Path, kind: SignalKind, row: Row, index: int, column: str, names: str | None, adapter_column: str | None
) -> RawInput:
    cells = row.cells if isinstance(row, BrokenRow) else row
    identity = str(cells.get(names) or f"{path.name}:{index}") if names else f"{path.name}:{index}"
    if isinstance(row, BrokenRow):
        return RawInput(id=identity, signal=None, problem=row.reason)
    adapter = str(row.get(adapter_column)) if adapter_column else None
    signal = _signal(path, kind, row.get(column))
    problem = f"column {column!r} is empty" if signal is None else None
    return RawInput(id=identity, signal=signal, problem=problem, adapter=adapter)


def _signal(path: Path, kind: SignalKind, cell: Any) -> Path | Payload | None:
    # Hugging Face datasets store media as a struct of bytes and path.
    value = cell.get("bytes") if isinstance(cell, dict) else cell
    if value is None or value == "" or value == b"":
        return None
    if isinstance(value, str) and kind not in _INLINE:
        return path.parent / value
    signal: Payload = value if isinstance(value, bytes | str | list) else str(value)
    return signal

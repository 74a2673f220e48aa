"""Random access by row range to the three table formats: Parquet, JSON Lines and CSV.

In: a file.  Out: its columns, its row count, and rows as plain dictionaries; a row that cannot be read comes as a
`BrokenRow` in its place, so that row numbers never shift.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

_SCAN_BYTES = 1 << 24
_HEAD_ROWS = 64
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that is there but cannot be read."""

    reason: str
    """Why, in one line."""
    cells: dict[str, Any]
    """The cells that could be read."""


Row = dict[str, Any] | BrokenRow


class Table(Protocol):
    """Rows of one file."""

    columns: tuple[str, ...]
    """Column names."""

    def __len__(self) -> int:
        """Number of rows."""

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[Row]:
        """Rows `start` to `stop` (exclusive) with at least these columns."""


class ParquetTable:
    """A Parquet file; only the row groups that hold the wanted rows are read, and only the wanted columns."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"table {path} is not a readable Parquet file: {error}") from error
        self.columns = tuple(self._file.schema_arrow.names)
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[Row]:
        """Rows of the range, one row group in memory at a time."""
        for group in range(len(self._starts) - 1):
            first, last = int(self._starts[group]), int(self._starts[group + 1])
            if first < stop and start < last:
                table = self._file.read_row_group(group, columns=list(columns))
                for index in range(max(start, first) - first, min(stop, last) - first):
                    yield _arrow_row(table, index)


def _arrow_row(table: pa.Table, index: int) -> Row:
    """Cells one by one: Parquet readers do not check UTF-8, so a single cell may fail to become a string."""
    cells: dict[str, Any] = {}
    broken: list[str] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            cells[name] = column[index].as_py()
        except UnicodeDecodeError:
            broken.append(name)
    return BrokenRow(f"column {broken[0]!r} is not UTF-8", cells) if broken else cells


class LinesTable:
    """A JSON Lines or CSV file, read through an index of where its records start."""

    def __init__(self, path: Path, *, quoted: bool) -> None:
        self._path = path
        offsets = record_offsets(path, quoted=quoted)
        self._parse: Callable[[str], Row] = _parse_json
        if quoted:
            self.columns = self._csv_header(offsets)
            offsets = offsets[1:]
            self._parse = self._parse_csv
        self._offsets = offsets
        if not quoted:
            heads = (row for row in self.rows(0, _HEAD_ROWS, ()) if isinstance(row, dict))
            self.columns = tuple(dict.fromkeys(name for row in heads for name in row))

    def __len__(self) -> int:
        return len(self._offsets)

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[Row]:
        """Rows of the range, one record in memory at a time."""
        with self._path.open("rb") as file:
            for begin, end in self._offsets[start:stop].tolist():
                file.seek(begin)
                try:
                    text = file.read(end - begin).decode("utf-8")
                except UnicodeDecodeError:
                    yield BrokenRow("not UTF-8", {})
                    continue
                yield self._parse(text)

    def _csv_header(self, offsets: npt.NDArray[np.int64]) -> tuple[str, ...]:
        if not len(offsets):
            raise ValueError(f"table {self._path} is empty; it needs a header line and rows")
        with self._path.open("rb") as file:
            raw = file.read(int(offsets[0, 1]))[int(offsets[0, 0]) :]
        try:
            return tuple(next(csv.reader(io.StringIO(raw.decode("utf-8"), newline="\n"))))
        except UnicodeDecodeError as error:
            raise ValueError(f"table {self._path} has a header line that is not UTF-8") from error

    def _parse_csv(self, text: str) -> Row:
        try:
            cells = next(csv.reader(io.StringIO(text, newline="\n"), strict=True))
        except (csv.Error, StopIteration) as error:
            return BrokenRow(f"not a CSV record: {error}", {})
        row = dict(zip(self.columns, cells, strict=False))
        if len(cells) != len(self.columns):
            return BrokenRow(f"has {len(cells)} cells, the header has {len(self.columns)}", row)
        return row


def _parse_json(text: str) -> Row:
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        return BrokenRow(f"not JSON: {error}", {})
    return row if isinstance(row, dict) else BrokenRow("not a JSON object", {})


def record_offsets(path: Path, *, quoted: bool) -> npt.NDArray[np.int64]:
    """Byte ranges `[n, 2]` of the file's non-blank records.

    With `quoted`, a line break inside double quotes does not end a record: it does where the number of quotes so far
    is even, which doubled quotes inside a cell leave unchanged.
    """
    ends: list[npt.NDArray[np.int64]] = []
    position = quotes = 0
    begin = 0
    with path.open("rb") as file:
        while block := file.read(_SCAN_BYTES):
            if position == 0 and block.startswith(_BOM):
                begin = len(_BOM)
            data = np.frombuffer(block, dtype=np.uint8)
            breaks = np.flatnonzero(data == 0x0A)
            if quoted:
                counts = np.cumsum(data == 0x22) + quotes
                breaks = breaks[counts[breaks] % 2 == 0]
                quotes = int(counts[-1])
            ends.append(breaks.astype(np.int64) + position + 1)
            position += len(block)
    stops = np.concatenate([*ends, np.array([position], dtype=np.int64)])
    starts = np.concatenate([np.array([begin], dtype=np.int64), stops[:-1]])
    return _without_blank(path, np.stack([starts, stops], axis=1))


def _without_blank(path: Path, ranges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    lengths = ranges[:, 1] - ranges[:, 0]
    keep = lengths > 0
    with path.open("rb") as file:
        for index in np.flatnonzero(keep & (lengths <= 2)).tolist():
            file.seek(int(ranges[index, 0]))
            keep[index] = bool(file.read(int(lengths[index])).strip())
    return ranges[keep]


def open_table(path: Path, kind: str) -> Table:
    """The table of a file of kind `parquet`, `jsonl` or `csv`."""
    if kind == "parquet":
        return ParquetTable(path)
    return LinesTable(path, quoted=kind == "csv")

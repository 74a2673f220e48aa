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

from pipeline.data.places import Place, RemotePlace, one_line

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

    def __init__(self, place: Place) -> None:
        try:
            if isinstance(place, RemotePlace):
                self._file = pq.ParquetFile(place.arrow_file(), pre_buffer=True)
            else:
                self._file = pq.ParquetFile(place.local_copy(), memory_map=True)
            self.columns = tuple(self._file.schema_arrow.names)
            sizes = _group_sizes(self._file.metadata)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"table {place.name} is not a readable Parquet file: {one_line(error)}") from error
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[Row]:
        """Rows of the range, one row group in memory at a time."""
        for group in range(len(self._starts) - 1):
            first, last = int(self._starts[group]), int(self._starts[group + 1])
            if first < stop and start < last:
                table = self._group(group, columns)
                for index in range(max(start, first) - first, min(stop, last) - first):
                    yield table if isinstance(table, BrokenRow) else arrow_row(table, index)

    def _group(self, group: int, columns: Sequence[str]) -> pa.Table | BrokenRow:
        """A row group, or what stands for each of its rows where it is damaged."""
        try:
            table = self._file.read_row_group(group, columns=list(columns))
            table.validate()
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network, not the file
            return BrokenRow(f"row group {group} is damaged: {one_line(error)}", {})
        expected = int(self._starts[group + 1] - self._starts[group])
        if table.num_rows != expected:
            return BrokenRow(f"row group {group} is damaged: {table.num_rows} of {expected} rows", {})
        return table


def _group_sizes(metadata: pq.FileMetaData) -> list[int]:
    """Rows of each row group; a damaged footer may claim any number of them, which every column has to confirm."""
    sizes = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        values = [group.column(column).num_values for column in range(group.num_columns)]
        if group.num_rows < 0 or any(count < group.num_rows for count in values):
            raise ValueError(f"row group {number} claims {group.num_rows} rows, its columns hold {min(values)} values")
        sizes.append(group.num_rows)
    if sum(sizes) != metadata.num_rows:
        raise ValueError(f"the footer claims {metadata.num_rows} rows, the row groups hold {sum(sizes)}")
    return sizes


def arrow_row(table: pa.Table | pa.RecordBatch, index: int) -> Row:
    """Cells one by one: Parquet readers do not check UTF-8, so a single cell may fail to become a string."""
    cells: dict[str, Any] = {}
    broken: list[str] = []
    for name, column in zip(table.schema.names, table.columns, strict=True):
        try:
            cells[name] = column[index].as_py()
        except UnicodeDecodeError:
            broken.append(f"column {name!r} is not UTF-8")
        except (ValueError, OverflowError, KeyError, NotImplementedError) as error:
            # Dates beyond Python's, unknown time zones and the like.
            broken.append(f"column {name!r} cannot be read: {one_line(error)}")
    return BrokenRow(broken[0], cells) if broken else cells


class LinesTable:
    """A JSON Lines or CSV file, read through an index of where its records start."""

    def __init__(self, place: Place, *, quoted: bool) -> None:
        self._name = place.name
        self._path = path = place.local_copy()
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
            raise ValueError(f"table {self._name} is empty; it needs a header line and rows")
        with self._path.open("rb") as file:
            raw = file.read(int(offsets[0, 1]))[int(offsets[0, 0]) :]
        try:
            return tuple(next(csv.reader(io.StringIO(raw.decode("utf-8"), newline="\n"))))
        except UnicodeDecodeError as error:
            raise ValueError(f"table {self._name} has a header line that is not UTF-8") from error
        except (csv.Error, StopIteration) as error:
            raise ValueError(f"table {self._name} has a header line that is not CSV: {one_line(error)}") from error

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
    except (ValueError, RecursionError) as error:  # a number of more digits than Python converts is a ValueError too
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


def open_table(place: Place, kind: str) -> Table:
    """The table of a file of kind `parquet`, `jsonl` or `csv`."""
    if kind == "parquet":
        return ParquetTable(place)
    return LinesTable(place, quoted=kind == "csv")

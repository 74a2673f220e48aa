"""Tables that Hugging Face's `datasets` writes: Arrow streams, and several files as one table.

In: Arrow IPC streams (or files), memory-mapped.  Out: the `Table` protocol over them.

A stream from elsewhere may hold offsets that point anywhere: a column is validated before any of its cells is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

import pyarrow as pa

from pipeline.data.places import Place, one_line
from pipeline.data.tables import BrokenRow, Row, Table, arrow_row

_FILE_MAGIC = b"ARROW1"


class ArrowTable:
    """An Arrow IPC stream or file on this machine (a remote one is copied first)."""

    def __init__(self, place: Place) -> None:
        self.batches: list[pa.RecordBatch] = []
        try:
            with pa.memory_map(str(place.local_copy())) as source:
                if source.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
                    file = pa.ipc.open_file(source)
                    self.batches = [file.get_batch(index) for index in range(file.num_record_batches)]
                    schema = file.schema
                else:
                    source.seek(0)
                    stream = pa.ipc.open_stream(source)
                    schema = stream.schema
                    self.batches = list(stream)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"table {place.name} is not a readable Arrow file: {one_line(error)}") from error
        self.columns = tuple(schema.names)
        self._starts = [0, *accumulate(batch.num_rows for batch in self.batches)]
        self._checked = lru_cache(maxsize=16)(self._validated)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[Row]:
        """Rows of the range."""
        for number in range(bisect_right(self._starts, start) - 1, len(self.batches)):
            first, last = self._starts[number], self._starts[number + 1]
            if first >= stop:
                return
            batch = self._checked(number, tuple(columns))
            for index in range(max(start, first) - first, min(stop, last) - first):
                yield batch if isinstance(batch, BrokenRow) else arrow_row(batch, index)

    def _validated(self, number: int, columns: tuple[str, ...]) -> pa.RecordBatch | BrokenRow:
        batch = self.batches[number].select(list(columns))
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            # Text is checked cell by cell, so that one bad cell costs one row.
            if pa.types.is_string(column.type):
                column = column.view(pa.binary())
            elif pa.types.is_large_string(column.type):
                column = column.view(pa.large_binary())
            try:
                column.validate(full=True)
            except (pa.ArrowException, ValueError) as error:
                return BrokenRow(f"column {name!r} is damaged: {one_line(error)}", {})
        return batch


class JoinedTable:
    """Several tables, one behind the other, each a part of a split; split and row number may stand for columns."""

    def __init__(self, parts: Sequence[tuple[str, Table]], *, split_field: str, id_field: str | None) -> None:
        """`id_field`: set where rows are named by their place, as in `train/17`."""
        self._parts = list(parts)
        self._starts = [0, *accumulate(len(table) for _, table in self._parts)]
        common = set.intersection(*(set(table.columns) for _, table in self._parts))
        self._split_field = None if split_field in common else split_field
        self._id_field = id_field
        added = [name for name in (self._split_field, id_field) if name is not None]
        self.columns = (*sorted(common), *added)
        self._first_of_split: list[int] = []
        rows: dict[str, int] = {}
        for split, table in self._parts:
            self._first_of_split.append(rows.get(split, 0))
            rows[split] = rows.get(split, 0) + len(table)

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[Row]:
        """Rows of the range."""
        for number, (split, table) in enumerate(self._parts):
            first, last = self._starts[number], self._starts[number + 1]
            begin, end = max(start, first) - first, min(stop, last) - first
            if begin >= end:
                continue
            stored = [name for name in columns if name not in (self._split_field, self._id_field)]
            found = table.rows(begin, end, stored) if stored else ({} for _ in range(begin, end))
            for index, row in enumerate(found, self._first_of_split[number] + begin):
                cells = row.cells if isinstance(row, BrokenRow) else row
                if self._split_field is not None:
                    cells[self._split_field] = split
                if self._id_field is not None:
                    cells[self._id_field] = f"{split}/{index}"
                yield row

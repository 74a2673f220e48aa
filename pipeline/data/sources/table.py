"""A table with one sample a row: Parquet, JSON Lines or CSV, its signals in files, in binary cells or inline.

In: a `SourceConfig` of kind `parquet`, `jsonl` or `csv`.  Out: one row a record.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from pipeline.data.places import LocalPlace, Place, place_at
from pipeline.data.requests import in_order
from pipeline.data.sample import BadRow, Payload, Sample
from pipeline.data.sources.base import (
    DEFAULT_SPLIT,
    RowError,
    Source,
    captions_of,
    cell_text,
    default_of,
    file_bytes,
    is_utf8,
)
from pipeline.data.tables import BrokenRow, Row, Table, open_table

_HASH_BYTES = 1 << 20


class TableSource(Source):
    """Rows of one table."""

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def _place(self) -> Place:
        return place_at(self.config.path, self.root)

    @cached_property
    def _table(self) -> Table:
        if not self._place.is_file():
            raise ValueError(f"source.path: table {self.name} does not exist; give a path relative to {self.root}")
        return open_table(self._place, self._format)

    @property
    def _format(self) -> str:
        """`parquet`, `jsonl` or `csv`."""
        return self.config.kind

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        """The columns read: the configured ones, without a split column that the table does not have."""
        c = self.config
        wanted = [c.id_field, c.caption_field, c.payload_field, *c.attribute_fields]
        if c.split_field in self._table.columns or c.split_field != default_of("split_field"):
            wanted.append(c.split_field)
        return tuple(dict.fromkeys(wanted))

    def check(self) -> None:
        """Raise `ValueError` where the table, one of its columns or every row is missing."""
        if self.config.payload == "bytes" and self._format != "parquet":
            raise ValueError(f"source.payload: 'bytes' needs kind 'parquet', got kind {self.config.kind!r}")
        if not len(self):
            raise ValueError(f"source.path: table {self.name} has no rows")
        for column in self._columns:
            if column not in self._table.columns:
                raise ValueError(
                    f"source: table {self.name} has no column {column!r}; it has {sorted(self._table.columns)}"
                )

    def _items(self, start: int, stop: int) -> Iterator[Sample | BadRow]:
        remote_files = self.config.payload == "path" and not isinstance(self._place, LocalPlace)
        rows = enumerate(self._table.rows(start, stop, self._columns), start)
        return in_order(self._item, rows, remote=remote_files)

    def _item(self, numbered: tuple[int, Row]) -> Sample | BadRow:
        index, row = numbered
        origin = f"{self.name}:{index}"
        name = self._id(row, index)
        try:
            return self._sample(row, name, origin)
        except RowError as error:
            return BadRow(id=name, source=origin, reason=str(error))

    def ids(self) -> Iterator[str]:
        """The id of every row, in order; that of a good row is its sample's. Payloads are left alone."""
        for index, row in enumerate(self._table.rows(0, len(self), (self.config.id_field,))):
            yield self._id(row, index)

    def _id(self, row: Row, index: int) -> str:
        cells = row.cells if isinstance(row, BrokenRow) else row
        identity = cells.get(self.config.id_field)
        # Half characters (which JSON can spell) would end the writing of a shard.
        return f"row-{index}" if identity in (None, "") or not is_utf8(str(identity)) else str(identity)

    def fingerprint(self) -> str:
        """SHA-256 of the table, the field configuration, and each payload file's name, size and time of change.

        A remote table counts by its size and ETag (or time of change): it may be too large to be read for this.
        """
        digest = self._digest()
        if isinstance(self._place, LocalPlace):
            with self._place.open() as file:
                while block := file.read(_HASH_BYTES):
                    digest.update(block)
        else:
            digest.update(self._place.state().encode())
        for state in self._payload_states():
            digest.update(f"{state}\n".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    def _payload_states(self) -> Iterator[str]:
        if self.config.payload != "path":
            return
        folder = self._place.parent()
        # One listing of a remote folder instead of a request a file.
        known = None if isinstance(folder, LocalPlace) else {entry.name: entry for entry in folder.entries()}
        column = self.config.payload_field
        for row in self._table.rows(0, len(self), (column,)):
            name = row.get(column) if isinstance(row, dict) else None
            try:
                relative = self._relative(name)
                if known is None:
                    yield f"{name!r}:{folder.below(relative).state()}"
                else:
                    yield known[relative].state
            except (RowError, OSError, KeyError):
                yield f"{name!r}:absent"

    def _sample(self, row: Row, name: str, origin: str) -> Sample:
        if isinstance(row, BrokenRow):
            raise RowError(row.reason)
        c = self.config
        missing = [column for column in self._columns if column not in row]
        if missing:
            raise RowError(f"has no field {missing[0]!r}")
        if row[c.id_field] in (None, ""):
            raise RowError(f"field {c.id_field!r} is empty")
        if not is_utf8(str(row[c.id_field])):
            raise RowError(f"field {c.id_field!r} is not UTF-8")
        return Sample(
            id=name,
            captions=captions_of(row[c.caption_field], c.caption_field),
            attributes={field: cell_text(row[field]) for field in c.attribute_fields},
            split=cell_text(row.get(c.split_field)) or DEFAULT_SPLIT,
            payload=self._payload(row[c.payload_field]),
            source=origin,
        )

    def _payload(self, cell: Any) -> Payload:
        if self.config.payload == "path":
            return self._file(cell)
        if self.config.payload == "inline":
            if not isinstance(cell, str) or not cell.strip():
                raise RowError(f"field {self.config.payload_field!r} holds no text")
            return cell
        # Hugging Face datasets store media as a struct of bytes and path.
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes) or not data:
            raise RowError(f"field {self.config.payload_field!r} holds no bytes")
        return data

    def _file(self, cell: Any) -> bytes:
        content = file_bytes(self._place.parent().below(self._relative(cell)), cell)
        if not content:
            raise RowError(f"file {cell!r} is empty")
        return content

    def _relative(self, cell: Any) -> str:
        if not isinstance(cell, str) or not cell or "\0" in cell or not is_utf8(cell):
            raise RowError(f"field {self.config.payload_field!r} holds no path")
        relative = posixpath.normpath(cell)
        if posixpath.isabs(relative) or relative.split("/")[0] == "..":
            raise RowError(f"path {cell!r} leaves the table's folder")
        return relative

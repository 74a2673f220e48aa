"""Sources: a table on disk, described by a `SourceConfig`, as rows that can be read by range in any process.

In: Parquet, JSON Lines or CSV with captions, and signals in files, in binary cells or inline.
Out: `Sample` rows, with a `BadRow` in the place of every row that cannot be one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.config.schema import SourceConfig
from pipeline.data.sample import BadRow, Sample
from pipeline.data.tables import BrokenRow, Row, Table, open_table

__all__ = ["BadRow", "Source", "open_source"]

_DEFAULT_SPLIT = "train"
_HASH_BYTES = 1 << 20


class _RowError(Exception):
    """Why one row cannot become a sample."""


def open_source(config: SourceConfig, root: Path) -> Source:
    """The source of a configuration; its table and columns are checked here, not in the middle of a run."""
    source = Source(config, root)
    source.check()
    return source


class Source:
    """Rows of one table; pickles as its configuration, and each process opens the table when it first reads."""

    def __init__(self, config: SourceConfig, root: Path) -> None:
        self.config = config
        """Which fields mean what."""
        self.path = root / config.path
        """The table's file."""
        self._root = root

    def __reduce__(self) -> tuple[type[Source], tuple[SourceConfig, Path]]:
        return Source, (self.config, self._root)

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def _table(self) -> Table:
        if not self.path.is_file():
            raise ValueError(f"source.path: table {self.path} does not exist; give a path relative to {self._root}")
        return open_table(self.path, self.config.kind)

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        """The columns read: the configured ones, without a split column that the table does not have."""
        c = self.config
        wanted = [c.id_field, c.caption_field, c.payload_field, *c.attribute_fields]
        if c.split_field in self._table.columns or c.split_field != _default_split_field():
            wanted.append(c.split_field)
        return tuple(dict.fromkeys(wanted))

    def check(self) -> None:
        """Raise `ValueError` where the table, one of its columns or every row is missing."""
        if self.config.payload == "bytes" and self.config.kind != "parquet":
            raise ValueError(f"source.payload: 'bytes' needs kind 'parquet', got kind {self.config.kind!r}")
        if not len(self):
            raise ValueError(f"source.path: table {self.path} has no rows")
        for column in self._columns:
            if column not in self._table.columns:
                raise ValueError(
                    f"source: table {self.path} has no column {column!r}; it has {sorted(self._table.columns)}"
                )

    def read(self, start: int, stop: int) -> Iterator[Sample | BadRow]:
        """Rows `start` to `stop` (exclusive), one item a row, in order."""
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"row range [{start}, {stop}) is outside of table {self.path} with {len(self)} rows")
        for index, row in enumerate(self._table.rows(start, stop, self._columns), start):
            origin = f"{self.path}:{index}"
            name = self._id(row, index)
            try:
                yield self._sample(row, name, origin)
            except _RowError as error:
                yield BadRow(id=name, source=origin, reason=str(error))

    def ids(self) -> Iterator[str]:
        """The id of every row, in order, as `read` gives it; payloads are left alone."""
        for index, row in enumerate(self._table.rows(0, len(self), (self.config.id_field,))):
            yield self._id(row, index)

    def _id(self, row: Row, index: int) -> str:
        cells = row.cells if isinstance(row, BrokenRow) else row
        identity = cells.get(self.config.id_field)
        return f"row-{index}" if identity in (None, "") else str(identity)

    def fingerprint(self) -> str:
        """SHA-256 of the table, the field configuration, and each payload file's name, size and time of change."""
        digest = hashlib.sha256()
        fields = dataclasses.asdict(self.config)
        del fields["path"]
        digest.update(json.dumps(fields, sort_keys=True).encode())
        with self.path.open("rb") as file:
            while block := file.read(_HASH_BYTES):
                digest.update(block)
        if self.config.payload == "path":
            column = self.config.payload_field
            for row in self._table.rows(0, len(self), (column,)):
                name = row.get(column) if isinstance(row, dict) else None
                digest.update(self._file_state(name).encode())
        return digest.hexdigest()

    def _file_state(self, name: Any) -> str:
        try:
            stat = self._payload_path(name).stat()
        except (_RowError, OSError):
            return f"{name!r}:absent\n"
        return f"{name!r}:{stat.st_size}:{stat.st_mtime_ns}\n"

    def _sample(self, row: Row, name: str, origin: str) -> Sample:
        if isinstance(row, BrokenRow):
            raise _RowError(row.reason)
        c = self.config
        missing = [column for column in self._columns if column not in row]
        if missing:
            raise _RowError(f"has no field {missing[0]!r}")
        if row[c.id_field] in (None, ""):
            raise _RowError(f"field {c.id_field!r} is empty")
        return Sample(
            id=name,
            captions=_captions(row[c.caption_field], c.caption_field),
            attributes={field: _cell_text(row[field]) for field in c.attribute_fields},
            split=_cell_text(row.get(c.split_field)) or _DEFAULT_SPLIT,
            payload=self._payload(row[c.payload_field]),
            source=origin,
        )

    def _payload(self, cell: Any) -> bytes | str:
        if self.config.payload == "path":
            path = self._payload_path(cell)
            try:
                return path.read_bytes()
            except OSError as error:
                raise _RowError(f"file {cell!r} cannot be read: {error.strerror}") from error
        if self.config.payload == "inline":
            if not isinstance(cell, str) or not cell.strip():
                raise _RowError(f"field {self.config.payload_field!r} holds no text")
            return cell
        # Hugging Face datasets store media as a struct of bytes and path.
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes) or not data:
            raise _RowError(f"field {self.config.payload_field!r} holds no bytes")
        return data

    def _payload_path(self, cell: Any) -> Path:
        if not isinstance(cell, str) or not cell or "\0" in cell:
            raise _RowError(f"field {self.config.payload_field!r} holds no path")
        relative = posixpath.normpath(cell)
        if posixpath.isabs(relative) or relative.split("/")[0] == "..":
            raise _RowError(f"path {cell!r} leaves the table's folder")
        return self.path.parent / relative


def _default_split_field() -> str:
    """The schema's default: only a column that the user named himself has to exist."""
    default = {field.name: field.default for field in dataclasses.fields(SourceConfig)}["split_field"]
    return str(default)


def _captions(cell: Any, field: str) -> tuple[str, ...]:
    cells = cell if isinstance(cell, list) else [cell]
    if not all(isinstance(caption, str) for caption in cells):
        raise _RowError(f"field {field!r} is neither text nor a list of texts")
    captions = tuple(caption.strip() for caption in cells if caption.strip())
    if not captions:
        raise _RowError("empty caption")
    return captions


def _cell_text(cell: Any) -> str:
    return "" if cell is None else str(cell)

"""What all sources share: row ranges, checks of what goes on to the shards, and the helpers of single cells.

In: a `SourceConfig` and the project's root.  Out: the class that every kind of source extends.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config.schema import SourceConfig
from pipeline.data.places import LocalPlace, Place, is_uri, public_uri
from pipeline.data.sample import BadRow, Sample

DEFAULT_SPLIT = "train"
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_WORD_END = re.compile(r"[-_.]")
# Fields that came after the first fingerprints: they count where they are used, so that all others stay what they were.
_LATER_FIELDS = ("name", "revision")


class RowError(Exception):
    """Why one row cannot become a sample."""


class Source(ABC):
    """Rows that are read by range; pickles as its configuration, and each process opens files when it first reads."""

    def __init__(self, config: SourceConfig, root: Path) -> None:
        self.config = config
        """Which fields mean what."""
        self.root = root
        """The project's root, where relative paths start."""

    def __reduce__(self) -> tuple[type[Source], tuple[SourceConfig, Path]]:
        return type(self), (self.config, self.root)

    @property
    def name(self) -> str:
        """Where it lies, for messages; without credentials."""
        return public_uri(self.config.path) if is_uri(self.config.path) else str(self.root / self.config.path)

    @abstractmethod
    def __len__(self) -> int:
        """Rows, good or bad."""

    @abstractmethod
    def check(self) -> None:
        """Raise `ValueError` where files, columns or every row are missing."""

    @abstractmethod
    def ids(self) -> Iterator[str]:
        """The id of every row, in order; that of a good row is its sample's. Payloads are left alone."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 that changes with any input."""

    @abstractmethod
    def _items(self, start: int, stop: int) -> Iterator[Sample | BadRow]:
        """Rows of a range that was checked."""

    def read(self, start: int, stop: int) -> Iterator[Sample | BadRow]:
        """Rows `start` to `stop` (exclusive), one item a row, in order."""
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"row range [{start}, {stop}) is outside of table {self.name} with {len(self)} rows")
        for index, item in enumerate(self._items(start, stop), start):
            yield _storable(item, index)

    def _digest(self) -> hashlib._Hash:
        """A fingerprint's beginning: the configuration, but for the path, so that a copy elsewhere is the same."""
        fields = dataclasses.asdict(self.config)
        del fields["path"]
        for name in _LATER_FIELDS:
            if fields[name] is None:
                del fields[name]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode())


def default_of(field: str) -> str:
    """A field's default in the schema: only a column that the user named himself has to exist."""
    defaults = {entry.name: entry.default for entry in dataclasses.fields(SourceConfig)}
    return str(defaults[field])


def split_of(name: str, folders: Sequence[str] = ()) -> str | None:
    """The split that a file's place tells: the beginning of its name, as in `val-00012`, or a folder of that name."""
    head = _WORD_END.split(name, maxsplit=1)[0]
    return next((_SPLITS[word] for word in (head, *folders) if word in _SPLITS), None)


def split_of_folder(folder: str) -> str:
    """`train`, `validation` or `test` for a folder of that name (`val` is `validation`); `train` for any other."""
    return _SPLITS.get(folder, DEFAULT_SPLIT)


def captions_of(cell: Any, field: str) -> tuple[str, ...]:
    """The captions of a cell with a text or a list of texts, stripped; blank ones are left out."""
    cells = cell if isinstance(cell, list) else [cell]
    if not all(isinstance(caption, str) for caption in cells):
        raise RowError(f"field {field!r} is neither text nor a list of texts")
    captions = tuple(caption.strip() for caption in cells if caption.strip())
    if not captions:
        raise RowError("empty caption")
    return captions


def file_bytes(place: Place, name: str) -> bytes:
    """A file's content; `RowError` where it is not there.

    Where a store's network fails it is an `OSError`: that must not leave rows out of finished shards.
    """
    try:
        with place.open() as file:
            return file.read()
    except FileNotFoundError as error:
        raise RowError(f"file {name!r} cannot be read: {os.strerror(errno.ENOENT)}") from error
    except OSError as error:
        if not isinstance(place, LocalPlace):
            raise
        raise RowError(f"file {name!r} cannot be read: {error.strerror}") from error


def cell_text(cell: Any) -> str:
    """A cell as text; a null cell is empty."""
    return "" if cell is None else str(cell)


def _storable(item: Sample | BadRow, index: int) -> Sample | BadRow:
    """JSON's escapes and the names of files can hold half characters, which no UTF-8 text and no shard can."""
    source = item.source.encode("utf-8", "backslashreplace").decode()
    name = item.id if is_utf8(item.id) else f"row-{index}"
    if isinstance(item, BadRow):
        reason = item.reason.encode("utf-8", "backslashreplace").decode()
        return replace(item, id=name, source=source, reason=reason)
    texts = {"id": [item.id], "caption": item.captions, "split": [item.split]}
    texts["attributes"] = [*item.attributes.values()]
    texts["payload"] = [item.payload] if isinstance(item.payload, str) else []
    for what, values in texts.items():
        if not all(map(is_utf8, values)):
            return BadRow(id=name, source=source, reason=f"{what} is not UTF-8")
    return item


def is_utf8(text: str) -> bool:
    """Whether a text has no half characters."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)

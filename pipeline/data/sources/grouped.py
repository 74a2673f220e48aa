"""Samples that are several files of one name: a payload, and its captions in a `.txt` or `.json` beside it.

In: groups of files, found by a subclass.  Out: one row a group.

A `.txt` has one caption a line. A `.json` is an object with the configured fields; its captions go before the `.txt`'s.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.data.requests import in_order
from pipeline.data.sample import BadRow, Sample
from pipeline.data.sources.base import RowError, Source, captions_of, cell_text, default_of, is_utf8

TEXT, FIELDS = "txt", "json"
_CAPTION_BYTES = 1 << 24
_CHECKED_ROWS = 16

PartT = TypeVar("PartT")
"""How a subclass names one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Generic[PartT]):
    """The files of one sample."""

    id: str
    """Their common name."""
    source: str
    """Where they lie, for messages."""
    split: str
    """What their place says."""
    parts: tuple[tuple[str, PartT], ...]
    """Extension (lower case) and file."""
    problem: str | None = None
    """Why this cannot be a sample, where that is known without reading."""


class GroupedSource(Source, Generic[PartT]):
    """One row a group of files."""

    @abstractmethod
    def _group(self, index: int) -> Group[PartT]:
        """The files of a row."""

    @abstractmethod
    def _bytes(self, part: PartT, limit: int | None = None) -> bytes:
        """A file's content, or a `RowError` where it cannot be read or is longer than `limit`."""

    def check(self) -> None:
        """Raise `ValueError` where there is no sample, or no JSON file of the first rows has a configured field."""
        if self.config.payload != "path":
            raise ValueError(
                f"source.payload: kind {self.config.kind!r} takes its payload from files, got "
                f"{self.config.payload!r}: remove it"
            )
        if not len(self):
            raise ValueError(f"source.path: {self.name} has no samples: no file in it but hidden ones")
        heads = [head for index in range(min(len(self), _CHECKED_ROWS)) if (head := self._head(index)) is not None]
        objects = [fields for _, fields in heads if fields is not None]
        known = sorted({str(name) for fields in objects for name in fields})
        wanted = list(self.config.attribute_fields) if heads else []
        if objects and not any(has_text for has_text, _ in heads):
            wanted.append(self.config.caption_field)
        for field in wanted:
            if field not in known:
                raise ValueError(f"source: the .json files of {self.name} have no field {field!r}; they have {known}")

    def _head(self, index: int) -> tuple[bool, dict[str, Any] | None] | None:
        group = self._group(index)
        parts = dict(group.parts)
        if group.problem is not None:
            return None
        try:
            return TEXT in parts, self._fields(parts)
        except RowError:
            return None

    def ids(self) -> Iterator[str]:
        """The id of every row, in order; that of a good row is its sample\'s. files are left alone."""
        for index in range(len(self)):
            yield _id(self._group(index), index)

    def _items(self, start: int, stop: int) -> Iterator[Sample | BadRow]:
        return in_order(self._item, range(start, stop), remote=self._separately())

    def _separately(self) -> bool:
        """Whether each file is a remote object of its own."""
        return False

    def _item(self, index: int) -> Sample | BadRow:
        group = self._group(index)
        try:
            return self._sample(group)
        except RowError as error:
            return BadRow(id=_id(group, index), source=group.source, reason=str(error))

    def _sample(self, group: Group[PartT]) -> Sample:
        if group.problem is not None:
            raise RowError(group.problem)
        if not is_utf8(group.id):
            raise RowError("file name is not UTF-8")
        c, parts = self.config, dict(group.parts)
        payloads = [(extension, part) for extension, part in group.parts if self._is_payload(extension)]
        if not payloads:
            raise RowError("has no payload file")
        if len(payloads) > 1:
            names = ", ".join(sorted(repr(extension) for extension, _ in payloads))
            raise RowError(f"has {len(payloads)} payload files, a sample has one: {names}")
        if TEXT not in parts and FIELDS not in parts:
            raise RowError("has no caption file")
        fields = self._fields(parts)
        missing = [name for name in c.attribute_fields if name not in (fields or {})]
        if missing:
            raise RowError(f"has no field {missing[0]!r}")
        if fields is not None and (c.caption_field in fields or TEXT not in parts):
            if c.caption_field not in fields:
                raise RowError(f"has no field {c.caption_field!r}")
            captions = captions_of(fields[c.caption_field], c.caption_field)
        else:
            captions = captions_of(self._text(parts[TEXT]).split("\n"), TEXT)
        content = self._bytes(payloads[0][1])
        if not content:
            raise RowError("payload file is empty")
        return Sample(
            id=group.id,
            captions=captions,
            attributes={name: cell_text((fields or {})[name]) for name in c.attribute_fields},
            split=self._split(group, fields),
            payload=content,
            source=group.source,
        )

    def _split(self, group: Group[PartT], fields: dict[str, Any] | None) -> str:
        """Where the files lie decides; a subclass may look into their fields."""
        return group.split

    def _is_payload(self, extension: str) -> bool:
        """A file of a configured extension; with none configured, whatever holds no captions."""
        if self.config.payload_field == default_of("payload_field"):
            return extension not in (TEXT, FIELDS)
        wanted = [name.strip().lstrip(".").lower() for name in self.config.payload_field.split(",")]
        return extension in wanted

    def _fields(self, parts: dict[str, PartT]) -> dict[str, Any] | None:
        if FIELDS not in parts:
            return None
        text = self._text(parts[FIELDS])
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RowError(f"caption file is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise RowError("caption file is not a JSON object")
        return fields

    def _text(self, part: PartT) -> str:
        try:
            return self._bytes(part, _CAPTION_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RowError("caption file is not UTF-8") from error


def _id(group: Group[PartT], index: int) -> str:
    return group.id if group.id and is_utf8(group.id) else f"row-{index}"

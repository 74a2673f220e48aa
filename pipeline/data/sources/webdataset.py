"""WebDataset tars: the members of one key are one sample, read by position and never unpacked.

In: one tar or a pattern of several.  Out: one row a key, in the order of first members; its id is the key.

The key is the member's path up to the first dot of its file name, and what follows is its extension.
"""

from __future__ import annotations

import io
import posixpath
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np

from pipeline.data.patterns import matching_places
from pipeline.data.places import Place, is_uri
from pipeline.data.requests import in_order
from pipeline.data.sample import BadRow, Sample
from pipeline.data.sources.base import DEFAULT_SPLIT, RowError, cell_text, split_of
from pipeline.data.sources.grouped import FIELDS, TEXT, Group, GroupedSource
from pipeline.data.tars import Listing, Member, scan

_PICKLED = ("pyd", "pkl", "pickle", "pth", "pt", "joblib")
_NPY_HEADER_BYTES = 1 << 16


class _TarIndex:
    """The samples of one tar, in arrays: a data set may have millions."""

    def __init__(self, listing: Listing, name: str) -> None:
        samples: dict[str, list[Member]] = {}
        for member in listing.members:
            key = _split_name(member.name)[0]
            if key is not None:
                samples.setdefault(key, []).append(member)
        members = [member for group in samples.values() for member in group]
        self.keys = list(samples)
        self.problems = {
            index: problem for index, group in enumerate(samples.values()) if (problem := _problem(group)) is not None
        }
        if listing.cut is not None:
            self.problems[len(self.keys)] = listing.cut
            self.keys.append(f"{posixpath.basename(name)}-end")
            samples[""] = []
        self._starts = np.cumsum([0, *map(len, samples.values())], dtype=np.int64)
        self._ranges = np.array([(member.offset, member.size) for member in members], dtype=np.int64).reshape(-1, 2)
        names = [_split_name(member.name)[1] for member in members]
        self._names = sorted(set(names))
        place = {extension: index for index, extension in enumerate(self._names)}
        self._extensions = np.array([place[extension] for extension in names], dtype=np.uint32)

    def members(self, sample: int) -> Iterator[tuple[str, int, int]]:
        """Extension, first byte and size of each member of a sample."""
        of = slice(self._starts[sample], self._starts[sample + 1])
        for extension, (offset, size) in zip(self._extensions[of].tolist(), self._ranges[of].tolist(), strict=True):
            yield self._names[extension], offset, size


@dataclass(frozen=True, slots=True)
class TarPart:
    """A member's bytes."""

    tar: int
    """Which tar."""
    offset: int
    """First byte."""
    size: int
    """Bytes."""


class WebDatasetSource(GroupedSource[TarPart]):
    """Rows of some tars."""

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def _places(self) -> list[Place]:
        return matching_places(self.config.path, self.root)

    @cached_property
    def _index(self) -> list[_TarIndex]:
        """The samples of each tar, from one scan of the headers."""
        return list(in_order(_indexed, self._places, remote=is_uri(self.config.path)))

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(tar.keys) for tar in self._index)]

    @cached_property
    def _open(self) -> dict[int, BinaryIO]:
        """The tar that was read last: rows come in order."""
        return {}

    def _group(self, index: int) -> Group[TarPart]:
        tar = bisect_right(self._starts, index) - 1
        sample = index - self._starts[tar]
        known, place = self._index[tar], self._places[tar]
        folder = posixpath.basename(posixpath.dirname(place.name))
        return Group(
            id=known.keys[sample],
            source=f"{place.name}:{known.keys[sample]}",
            split=split_of(posixpath.basename(place.name), [folder]) or DEFAULT_SPLIT,
            parts=tuple((extension, TarPart(tar, *found)) for extension, *found in known.members(sample)),
            problem=known.problems.get(sample),
        )

    def _split(self, group: Group[TarPart], fields: dict[str, Any] | None) -> str:
        """The JSON member's field where it has one, else what the tar's name says."""
        return cell_text((fields or {}).get(self.config.split_field)) or group.split

    def _bytes(self, part: TarPart, limit: int | None = None) -> bytes:
        if limit is not None and part.size > limit:
            raise RowError(f"caption file has {part.size} bytes, at most {limit} are read")
        file = self._open.get(part.tar)
        if file is None:
            self._close()
            file = self._open[part.tar] = self._places[part.tar].open()
        file.seek(part.offset)
        content = file.read(part.size)
        if len(content) < part.size:
            raise RowError(f"the tar became shorter: {len(content)} of {part.size} bytes left")
        return content

    def _close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def check(self) -> None:
        """As for any files."""
        try:
            super().check()
        finally:
            self._close()

    def _items(self, start: int, stop: int) -> Iterator[Sample | BadRow]:
        try:
            yield from super()._items(start, stop)
        finally:
            self._close()

    def _sample(self, group: Group[TarPart]) -> Sample:
        for extension, part in group.parts:
            if extension.endswith("npy") and _holds_objects(self._bytes(part)):
                raise RowError("holds a pickled member: 'npy'")
        return super()._sample(group)

    def fingerprint(self) -> str:
        """SHA-256 of the field configuration, and of each tar's name, size and time of change (remote: its ETag)."""
        digest = self._digest()
        states = in_order(lambda place: place.state(), self._places, remote=is_uri(self.config.path))
        for place, state in zip(self._places, states, strict=True):
            name = posixpath.basename(place.name)
            digest.update(f"{name!r}:{state}\n".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def _indexed(place: Place) -> _TarIndex:
    with place.open() as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        return _TarIndex(scan(file, size, place.name), place.name)


def _split_name(name: str) -> tuple[str | None, str]:
    """Key and extension; no key for hidden files, such as those that macOS puts into tars."""
    folder, base = posixpath.split(name.removeprefix("./"))
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem) if stem else None, extension.lower()


def _problem(members: Sequence[Member]) -> str | None:
    """Why the members of one key cannot be a sample."""
    seen: set[str] = set()
    for member in members:
        key, extension = _split_name(member.name)
        if posixpath.isabs(key or "") or ".." in (key or "").split("/"):
            return f"name {member.name!r} leaves the archive"
        if member.problem is not None:
            return f"member {extension!r} {member.problem}"
        if extension.rpartition(".")[2] in _PICKLED:
            return f"holds a pickled member: {extension!r}"
        if extension in (TEXT, FIELDS) and extension in seen:
            return f"has two members {extension!r}"
        seen.add(extension)
    return None


def _holds_objects(content: bytes) -> bool:
    """Whether an `.npy` file is a pickle inside; one whose header cannot be read is taken for one."""
    stream = io.BytesIO(content[:_NPY_HEADER_BYTES])
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return bool(read(stream)[2].hasobject)
    except (ValueError, TypeError, SyntaxError):
        return True

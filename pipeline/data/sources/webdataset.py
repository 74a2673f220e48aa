"""WebDataset tars: the members of one key are one sample, read by position and never unpacked.

In: one tar or a pattern of several.  Out: one row a key, in the order of first members; its id is the key.

The key is the member's path up to the first dot of its file name, and what follows is its extension.
"""

from __future__ import annotations

import io
import posixpath
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np

from pipeline.data.patterns import matching_places
from pipeline.data.places import Place
from pipeline.data.sample import BadRow, Sample
from pipeline.data.sources.base import DEFAULT_SPLIT, RowError, cell_text, split_of
from pipeline.data.sources.grouped import FIELDS, TEXT, Group, GroupedSource
from pipeline.data.tars import Member, scan

_PICKLED = ("pyd", "pkl", "pickle", "pth", "pt", "joblib")
_NPY_HEADER_BYTES = 1 << 16


@dataclass(slots=True)
class _Sample:
    """The members of one key; most of a large index is these, so it holds little."""

    key: str
    extensions: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    problem: str | None = None


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
    def _index(self) -> list[list[_Sample]]:
        """The samples of each tar, from one scan of the headers."""
        index = []
        for place in self._places:
            with place.open() as file:
                size = file.seek(0, io.SEEK_END)
                file.seek(0)
                listing = scan(file, size, place.name)
            samples = _samples(listing.members)
            if listing.cut is not None:
                end = f"{posixpath.basename(place.name)}-end"
                samples.append(_Sample(key=end, problem=listing.cut))
            index.append(samples)
        return index

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(samples) for samples in self._index)]

    @cached_property
    def _open(self) -> dict[int, BinaryIO]:
        """The tar that was read last: rows come in order."""
        return {}

    def _group(self, index: int) -> Group[TarPart]:
        tar = bisect_right(self._starts, index) - 1
        sample = self._index[tar][index - self._starts[tar]]
        places = zip(sample.offsets, sample.sizes, strict=True)
        parts = [TarPart(tar, offset, size) for offset, size in places]
        folder = posixpath.basename(posixpath.dirname(self._places[tar].name))
        return Group(
            id=sample.key,
            source=f"{self._places[tar].name}:{sample.key}",
            split=split_of(posixpath.basename(self._places[tar].name), [folder]) or DEFAULT_SPLIT,
            parts=tuple(zip(sample.extensions, parts, strict=True)),
            problem=sample.problem,
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
        for place in self._places:
            name = posixpath.basename(place.name)
            digest.update(f"{name!r}:{place.state()}\n".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def _samples(members: list[Member]) -> list[_Sample]:
    samples: dict[str, _Sample] = {}
    for member in members:
        folder, base = posixpath.split(member.name.removeprefix("./"))
        stem, _, extension = base.partition(".")
        extension = extension.lower()
        if not stem:
            continue  # hidden files, such as those that macOS puts into tars
        key = posixpath.join(folder, stem)
        sample = samples.setdefault(key, _Sample(key))
        problem = member.problem and f"member {extension!r} {member.problem}"
        if posixpath.isabs(key) or ".." in key.split("/"):
            problem = f"name {member.name!r} leaves the archive"
        elif extension.rpartition(".")[2] in _PICKLED:
            problem = f"holds a pickled member: {extension!r}"
        elif extension in (TEXT, FIELDS) and extension in sample.extensions:
            problem = f"has two members {extension!r}"
        sample.problem = sample.problem or problem
        sample.extensions.append(extension)
        sample.offsets.append(member.offset)
        sample.sizes.append(member.size)
    return list(samples.values())


def _holds_objects(content: bytes) -> bool:
    """Whether an `.npy` file is a pickle inside; one whose header cannot be read is taken for one."""
    stream = io.BytesIO(content[:_NPY_HEADER_BYTES])
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return bool(read(stream)[2].hasobject)
    except (ValueError, TypeError, SyntaxError):
        return True

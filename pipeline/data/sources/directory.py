"""A folder of files with their captions beside them.

In: `<name>.<ext>` with `<name>.txt` or `<name>.json`, in folders as you like; the first folder may name the split.
Out: one row a name, in the order of names; its id is the path without the extension.
"""

from __future__ import annotations

import posixpath
from functools import cached_property

from pipeline.data.places import Entry, LocalPlace, Place, place_at
from pipeline.data.sources.base import RowError, file_bytes, split_of_folder
from pipeline.data.sources.grouped import FIELDS, TEXT, Group, GroupedSource


class DirectorySource(GroupedSource[Entry]):
    """Rows of one folder."""

    def __len__(self) -> int:
        return len(self._groups)

    @cached_property
    def _place(self) -> Place:
        return place_at(self.config.path, self.root)

    @cached_property
    def _groups(self) -> list[tuple[str, tuple[tuple[str, Entry], ...]]]:
        if not self._place.is_folder():
            raise ValueError(f"source.path: folder {self.name} does not exist; give a path relative to {self.root}")
        groups: dict[str, list[tuple[str, Entry]]] = {}
        for entry in sorted(self._place.entries(), key=lambda entry: entry.name):
            stem, extension = posixpath.splitext(entry.name)
            extension = extension[1:].lower()
            if extension in (TEXT, FIELDS) or self._is_payload(extension):
                groups.setdefault(stem, []).append((extension, entry))
        return [(stem, tuple(groups[stem])) for stem in sorted(groups)]

    def _separately(self) -> bool:
        return not isinstance(self._place, LocalPlace)

    def _group(self, index: int) -> Group[Entry]:
        stem, parts = self._groups[index]
        folder, slash, _ = stem.partition("/")
        extensions = [extension for extension, _ in parts if extension in (TEXT, FIELDS)]
        return Group(
            id=stem,
            source=f"{self.name}/{stem}",
            split=split_of_folder(folder if slash else ""),
            parts=parts,
            problem="has several caption files of one kind" if len(set(extensions)) < len(extensions) else None,
        )

    def _bytes(self, part: Entry, limit: int | None = None) -> bytes:
        if limit is not None and part.size > limit:
            raise RowError(f"caption file has {part.size} bytes, at most {limit} are read")
        return file_bytes(self._place.below(part.name), part.name)

    def fingerprint(self) -> str:
        """SHA-256 of the field configuration, and of each file's name, size and time of change."""
        digest = self._digest()
        for _, parts in self._groups:
            for _, entry in parts:
                digest.update(f"{entry.state}\n".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

"""Patterns that stand for several files: `{000..003}`, `{a,b}` and `*`.

In: a configured path or URI.  Out: the files that it names, in a fixed order.
"""

from __future__ import annotations

import fnmatch
import itertools
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.places import LocalPlace, Place, is_uri, place_at
from pipeline.data.requests import in_order

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_FILES = 1_000_000
"""Most names that braces may stand for."""


def matching_places(path: str, root: Path) -> list[Place]:
    """The files of a path, a URI or a pattern of either; braces in the order written, `*` in the order of names."""
    if not is_uri(path) and (literal := LocalPlace(root / path)).is_file():
        return [literal]
    # A URI's folder is opened first, because its parser knows no patterns; its query goes with the folder.
    path, question, query = path.partition("?") if is_uri(path) else (path, "", "")
    found = [place for one in _expanded(path) for place in _globbed(one, f"{question}{query}", root)]
    there = in_order(lambda place: place.is_file(), found, remote=is_uri(path))
    missing = [place.name for place, is_there in zip(found, there, strict=True) if not is_there]
    if missing:
        raise ValueError(f"source.path: {missing[0]} does not exist; give a file, or a pattern of files that do")
    if not found:
        raise ValueError(
            f"source.path: no file matches {path!r}; give a file, or a pattern such as 'tars/{{00..09}}.tar'"
        )
    return found


def _expanded(path: str) -> Iterator[str]:
    """The paths that braces stand for."""
    pieces = _BRACES.split(path)
    choices = [[piece] if index % 2 == 0 else _choices(piece) for index, piece in enumerate(pieces)]
    count = 1
    for options in choices:
        count *= len(options)
    if count > MAX_FILES:
        raise ValueError(f"source.path: {path!r} stands for {count} files, at most {MAX_FILES} are allowed")
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _choices(inside: str) -> list[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    if int(last) - int(first) >= MAX_FILES:
        raise ValueError(f"source.path: {{{inside}}} stands for more than {MAX_FILES} files")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _globbed(path: str, query: str, root: Path) -> list[Place]:
    if "*" not in path:
        return [place_at(f"{path}{query}", root)]
    folder, pattern = posixpath.split(path)
    if "*" in folder:
        raise ValueError(f"source.path: {path!r} has a '*' in a folder's name: only the file's name may have one")
    place = place_at(f"{folder}{query}", root)
    if not place.is_folder():
        raise ValueError(f"source.path: folder {place.name} does not exist; give one that does")
    # A `*` does not cross folders, as in a shell.
    names = [entry.name for entry in place.entries() if "/" not in entry.name]
    regex = re.compile(fnmatch.translate(pattern.replace("[", "[[]").replace("?", "[?]")))
    return [place.below(name) for name in sorted(names) if regex.match(name)]

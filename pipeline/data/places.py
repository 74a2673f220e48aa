"""Where files lie: on this machine, or on a filesystem that pyarrow knows by URI (`s3://`, `gs://`, ...).

In: a path or a URI of a configuration.  Out: a `Place`, which opens, lists and identifies what is there.

Credentials come from the environment; no message shows any.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a folder."""

    name: str
    """Relative to the folder, with forward slashes."""
    size: int
    """Bytes; -1 where it cannot be read."""
    mtime_ns: int
    """Time of its last change."""

    @property
    def state(self) -> str:
        """Changes with the file, as far as a listing tells."""
        return f"{self.name!r}:{self.size}:{self.mtime_ns}"


class Place(Protocol):
    """A file or a folder."""

    name: str
    """For messages; without credentials."""

    def open(self) -> BinaryIO:
        """The file for reading at any position, buffered."""

    def is_file(self) -> bool:
        """Whether it is a file."""

    def is_folder(self) -> bool:
        """Whether it is a folder."""

    def state(self) -> str:
        """Changes with the file: its size, and its ETag or the time of its last change."""

    def below(self, relative: str) -> Place:
        """The place at a relative path, which the caller has checked."""

    def parent(self) -> Place:
        """The folder that it lies in."""

    def entries(self) -> Iterator[Entry]:
        """Every file below this folder, in no particular order; hidden ones are left out."""

    def local_copy(self) -> Path:
        """The whole file on this machine."""


class LocalPlace:
    """A path of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def open(self) -> BinaryIO:
        """The file, buffered."""
        return self.path.open("rb")

    def is_file(self) -> bool:
        """Whether it is a file, or a link to one."""
        return self.path.is_file()

    def is_folder(self) -> bool:
        """Whether it is a folder, or a link to one."""
        return self.path.is_dir()

    def state(self) -> str:
        """Size and time of change."""
        stat = self.path.stat()
        return f"{stat.st_size}:{stat.st_mtime_ns}"

    def below(self, relative: str) -> LocalPlace:
        """The path below."""
        return LocalPlace(self.path / relative)

    def parent(self) -> LocalPlace:
        """The folder around it."""
        return LocalPlace(self.path.parent)

    def entries(self) -> Iterator[Entry]:
        """Files and links to files; a link to a folder is not followed, so that none is visited twice."""
        for folder, below, files in os.walk(self.path):
            below[:] = [name for name in below if not name.startswith(".")]
            for name in files:
                path = Path(folder, name)
                if name.startswith(".") or not (path.is_file() or path.is_symlink()):
                    continue
                relative = path.relative_to(self.path).as_posix()
                try:
                    stat = path.stat()
                except OSError:
                    yield Entry(relative, -1, 0)
                else:
                    yield Entry(relative, stat.st_size, stat.st_mtime_ns)

    def local_copy(self) -> Path:
        """The file itself."""
        return self.path


class RemotePlace:
    """A path of a pyarrow filesystem."""

    def __init__(self, files: fs.FileSystem, path: str, name: str) -> None:
        self._files, self._path, self.name = files, path.rstrip("/"), name.rstrip("/")

    def arrow_file(self) -> pa.NativeFile:
        """The file as Arrow's own readers take it; what they do not ask for is not fetched."""
        return self._files.open_input_file(self._path)

    def open(self) -> BinaryIO:
        """The file, fetched in pieces of a MiB where it is read."""
        return cast(BinaryIO, io.BufferedReader(self.arrow_file(), _BUFFER_BYTES))

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return bool(self._files.get_file_info(self._path).type == fs.FileType.File)

    def is_folder(self) -> bool:
        """Whether there are objects below it."""
        return bool(self._files.get_file_info(self._path).type == fs.FileType.Directory)

    def state(self) -> str:
        """Size and ETag, or time of change where the store gives no ETag."""
        with self.arrow_file() as file:
            size = file.size()
            known = {key.lower(): value for key, value in (file.metadata() or {}).items()}
        tag = known.get("etag") or known.get(b"etag")
        if tag is not None:
            return f"{size}:{tag.decode() if isinstance(tag, bytes) else tag}"
        return f"{size}:{self._files.get_file_info(self._path).mtime_ns}"

    def below(self, relative: str) -> RemotePlace:
        """The object below."""
        return RemotePlace(self._files, f"{self._path}/{relative}", f"{self.name}/{relative}")

    def parent(self) -> RemotePlace:
        """The folder around it."""
        return RemotePlace(self._files, self._path.rpartition("/")[0], self.name.rpartition("/")[0])

    def entries(self) -> Iterator[Entry]:
        """All objects below, by one listing."""
        for info in self._files.get_file_info(fs.FileSelector(self._path, recursive=True)):
            relative = info.path[len(self._path) + 1 :]
            hidden = any(part.startswith(".") for part in relative.split("/"))
            if info.type == fs.FileType.File and not hidden:
                yield Entry(relative, info.size, info.mtime_ns or 0)

    def local_copy(self) -> Path:
        """A copy in the cache, named by what the store says of the file: fetched once, and again when it changes."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semi-sources"
        state = self.state()
        identity = hashlib.sha256(f"{self.name}\n{state}".encode()).hexdigest()
        path = cache / f"{identity}{Path(self._path).suffix}"
        if path.is_file():
            return path
        try:
            cache.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{identity[:16]}-", suffix=".tmp", dir=cache)
        except OSError as error:
            raise ValueError(
                f"the cache {cache} for {self.name} cannot be written ({error.strerror or error}): free it, or choose "
                f"another with the environment variable XDG_CACHE_HOME"
            ) from error
        try:
            with os.fdopen(handle, "wb") as target, self._files.open_input_stream(self._path) as stream:
                shutil.copyfileobj(stream, target, _BUFFER_BYTES)
            if self.state() != state:
                raise OSError(f"{self.name} changed while it was fetched: run again once it is whole")
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return path


def is_uri(path: str) -> bool:
    """Whether a configured path is a URI."""
    return "://" in path


def place_at(path: str, root: Path) -> Place:
    """The place at a path (relative to the project's root) or a URI; `ValueError` where pyarrow cannot open the URI."""
    if not is_uri(path):
        return LocalPlace(root / path)
    parts = urlsplit(path)
    if parts.scheme == "file":
        return LocalPlace(Path(unquote(parts.path)))
    give = "give a path of this machine, or a URI such as s3://bucket/folder or gs://bucket/folder"
    files, inner = open_uri(path, field="source.path: ", give=give)
    return RemotePlace(files, inner, public_uri(path))


def open_uri(uri: str, *, give: str, field: str = "") -> tuple[fs.FileSystem, str]:
    """The filesystem of a URI and the path in it; `ValueError` where pyarrow cannot open it, with what to `give`."""
    try:
        files, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, NotImplementedError) as error:
        name = public_uri(uri)
        reason = one_line(error).replace(uri, name)
        # Without the cause: pyarrow's message quotes the URI, which may carry credentials.
        raise ValueError(f"{field}{name} cannot be opened ({reason}): {give}") from None
    return files, path


def public_uri(uri: str) -> str:
    """The URI without what may be secret: the user's part, and the query."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__

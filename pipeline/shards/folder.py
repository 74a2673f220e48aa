"""Where a dataset's files lie: a folder of this machine, or one elsewhere whose shards are fetched into a local cache.

In: a path or a URI that pyarrow knows (`s3://`, `gs://`, `hdfs://`, `file://`, ...).  Out: the checked manifest, and
paths of shard files that hold what it says.

The cache is addressed by content: `<cache>/<SHA-256>.arrow`.  A file gets its name by a rename after its hash was
checked, so any number of processes and datasets may share one cache, and a killed download leaves nothing that counts.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

from pyarrow import fs

from pipeline.config.fingerprint import file_sha256
from pipeline.data.places import one_line, open_uri, public_uri
from pipeline.shards.manifest import MANIFEST_FILE, FileEntry, Manifest, load_manifest, parse_manifest

_PIECE = 2**20


class Folder(Protocol):
    """The files of one dataset."""

    @property
    def name(self) -> str:
        """For messages; without credentials."""

    def manifest(self) -> Manifest:
        """The checked manifest."""

    def file(self, entry: FileEntry, *, hashed: bool) -> Path:
        """A local file of the entry's size and, with `hashed`, of its content; `ValueError` where there is none."""


def open_folder(location: Path | str, cache: Path | None = None) -> Folder:
    """The folder at a path or URI."""
    if isinstance(location, str) and "://" in location:
        return RemoteFolder(location, cache or default_cache())
    return LocalFolder(Path(location))


def remote_datasets(uri: str) -> list[str]:
    """Names, relative to a URI, of the datasets at or below it, in order; "" is the URI itself."""
    names = RemoteFolder(uri, default_cache()).datasets()
    outside = [name for name in names if ".." in name.split("/")]  # any text is a valid key of a bucket
    if outside:
        raise ValueError(f"{public_uri(uri)} holds a dataset named {outside[0]!r}, which leads elsewhere: rename it")
    return names


def uri_below(uri: str, relative: str) -> str:
    """The URI of a folder below that of `uri`; its query, such as a region, is kept."""
    parts = urlsplit(uri)
    path = "/".join(filter(None, (parts.path.rstrip("/"), quote(relative))))
    return urlunsplit(parts._replace(path=path))


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/semi-shards`, or `~/.cache/semi-shards`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semi-shards"


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._directory)

    def manifest(self) -> Manifest:
        """The checked manifest."""
        return load_manifest(self._directory)

    def file(self, entry: FileEntry, *, hashed: bool) -> Path:
        """The file itself."""
        path = self._directory / entry.name
        problem = file_problem(path, entry, hashed=hashed)
        if problem is not None:
            raise ValueError(
                f"{path} {problem}: no row of it is served; `python -m jobs.verify_shards {self._directory}` shows all "
                f"damage, jobs.extract_embeddings repairs it"
            )
        return path


class RemoteFolder:
    """A folder elsewhere, through a cache on this machine."""

    def __init__(self, uri: str, cache: Path) -> None:
        self._cache = cache
        self.name = public_uri(uri)
        known = "a URI that pyarrow.fs.FileSystem.from_uri knows, such as s3://bucket/folder or gs://bucket/folder"
        self._files, path = open_uri(uri, give=f"give a folder of this machine, or {known}")
        self._path = path.rstrip("/")

    def manifest(self) -> Manifest:
        """The checked manifest, fetched each time: it is what decides which shards count."""
        try:
            with self._files.open_input_stream(f"{self._path}/{MANIFEST_FILE}") as stream:
                content = stream.read()
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.name} holds no embedding dataset ({MANIFEST_FILE} is missing): copy a whole folder of "
                f"jobs.extract_embeddings there"
            ) from error
        except OSError as error:
            raise ValueError(f"{self.name}/{MANIFEST_FILE} cannot be read: {one_line(error)}") from error
        return parse_manifest(content, f"{self.name}/{MANIFEST_FILE}")

    def datasets(self) -> list[str]:
        """Names of the folders at or below this one that hold a manifest."""
        try:
            if self._files.get_file_info(f"{self._path}/{MANIFEST_FILE}").is_file:
                return [""]  # no dataset lies in another, and a bucket may be large
            below = self._files.get_file_info(fs.FileSelector(self._path, recursive=True))
        except OSError as error:
            raise ValueError(f"{self.name} cannot be listed: {one_line(error)}") from error
        suffix = f"/{MANIFEST_FILE}"
        found = (info.path.removeprefix(f"{self._path}/") for info in below if info.path.endswith(suffix))
        return sorted(path.removesuffix(suffix) for path in found)

    def file(self, entry: FileEntry, *, hashed: bool) -> Path:
        """The file in the cache; fetched where it is missing there, or no longer whole."""
        path = self._cache / f"{entry.sha256}.arrow"
        if file_problem(path, entry, hashed=hashed) is not None:
            self._fetch(entry, path)
        return path

    def _fetch(self, entry: FileEntry, path: Path) -> None:
        source = f"{self.name}/{entry.name}"
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{entry.sha256[:16]}-", suffix=".tmp", dir=self._cache)
        except OSError as error:
            raise ValueError(
                f"the shard cache {self._cache} cannot be written ({error.strerror or error}): free it, or choose "
                f"another with the environment variable XDG_CACHE_HOME"
            ) from error
        try:
            with os.fdopen(handle, "wb") as target:
                sha256, size = self._copy(entry.name, target)
            if (sha256, size) != (entry.sha256, entry.bytes):
                raise ValueError(
                    f"{source} is damaged ({size} bytes of SHA-256 {sha256[:16]}... instead of {entry.bytes} of "
                    f"{entry.sha256[:16]}...): no row of it is served; copy the dataset there again"
                )
            Path(temporary).chmod(0o644)  # mkstemp's 0600 would keep a shared cache from other users
            Path(temporary).replace(path)
        except OSError as error:
            raise ValueError(f"{source} cannot be fetched: {one_line(error)}") from error
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _copy(self, name: str, target: BinaryIO) -> tuple[str, int]:
        """Fetch a file piece by piece; returns the hash and the number of bytes that came."""
        digest, size = hashlib.sha256(), 0
        with self._files.open_input_stream(f"{self._path}/{name}") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
                size += target.write(piece)
        target.flush()
        os.fsync(target.fileno())
        return digest.hexdigest(), size


def file_problem(path: Path, entry: FileEntry, *, hashed: bool) -> str | None:
    """What is wrong with a file that `entry` describes: None, or the end of a sentence."""
    if not path.is_file():
        return "is missing"
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        return "is a link to a file outside its folder"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"has {size} bytes instead of {entry.bytes}"
    if hashed and file_sha256(path) != entry.sha256:
        return "is damaged (its SHA-256 differs from the manifest's)"
    return None

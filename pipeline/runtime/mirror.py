"""A run's folder kept in an object store too, for machines whose disks do not last.

In: a folder, and a URI that pyarrow knows (`s3://`, `gs://`, `file://`).  Out: for the length of a `with` block the
folder holds what the store has, and the store gets what the folder has: every `every_s` seconds and at the end.

The store holds content under its SHA-256, and one index that says which files there are. The index is written last, and
not at all where a file changed meanwhile. So whenever a machine is lost, the store has the folder as it was at one
moment, and jobs go on from it as they do after any crash.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from pipeline.config.artifacts import write_text_atomic
from pipeline.config.fingerprint import file_sha256
from pipeline.data.places import one_line, open_uri, public_uri
from pipeline.runtime.mirror_index import MirroredFile, Snapshot
from pipeline.shards.folder import uri_below

_LOG = logging.getLogger(__name__)
INDEX, OBJECTS, STATE = "index.json", "objects", ".mirror.json"
EVERY_S = 60.0
_TRIES = 5
_LEFT_OUT = ("ray", "tune/ray")
"""Folders that mean nothing to another machine."""
_GROWING = ".jsonl"
"""Files that are appended to while they are read: any beginning of them is a state that they were in."""
_THREADS, _PIECE = 8, 1 << 20


class ForeignFolderError(ValueError):
    """Folder and store hold different runs, or two jobs work on one."""


class _MovedError(Exception):
    """A file changed while it was read."""


class Mirror:
    """One folder and its copy."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder, self.name = folder, public_uri(uri)
        give = "give a URI such as s3://bucket/folder or gs://bucket/folder"
        self._files, path = open_uri(uri, field="runtime.mirror: ", give=give)
        # An object appears whole when its stream is closed; a file of this machine grows while it is written.
        self._renames = isinstance(self._files, fs.LocalFileSystem)
        self._path = path.rstrip("/")
        self._known = Snapshot()

    def pull(self) -> int:
        """Make the folder what the store has, unless it is that and more; returns how many files were fetched."""
        self._require_writable()
        there, here = self._index(), self._state()
        if there is None:
            self._known = Snapshot()
            return 0
        if here is None and self._local():
            raise ForeignFolderError(
                f"{self._folder} has files that did not come from {self.name}, which holds a run of this name: choose "
                "another --name, or move one of them away"
            )
        if here is not None and here.whole and here.sequence == there.sequence:
            self._known = here
            return 0
        return self._fetch(there)

    def push(self) -> bool:
        """Bring the store to what the folder has; False where a file would not keep still, and all is as it was."""
        there = self._index()
        if (0 if there is None else there.sequence) != self._known.sequence:
            raise ForeignFolderError(
                f"{self.name} was written to by another job meanwhile: what this one made is in {self._folder}; let "
                "one job at a time work on a run"
            )
        first, before, known = self._local(), self._local(), self._known.files
        try:
            files = {name: self._hashed(name, *stat) for name, stat in before.items()}
            if files == known:
                return True
            kept = {file.sha256 for file in known.values()}
            new = {file.sha256: name for name, file in files.items() if file.sha256 not in kept}
            with ThreadPoolExecutor(_THREADS) as threads:
                list(threads.map(lambda name: self._send(name, files[name]), new.values()))
        except _MovedError:
            return False
        # Twice before: then what is appended to, such as a record of steps, is no older than the checkpoints beside it.
        if _still(first) != _still(before) or not _still(before).items() <= self._local().items():
            return False
        self._publish(Snapshot(sequence=self._known.sequence + 1, files=files))
        for sha256 in kept - {file.sha256 for file in files.values()}:
            self._files.delete_file(f"{self._path}/{OBJECTS}/{sha256}")
        return True

    def _publish(self, snapshot: Snapshot) -> None:
        index = f"{self._path}/{INDEX}"
        with self._files.open_output_stream(f"{index}.new" if self._renames else index) as target:
            target.write(snapshot.text().encode())
        if self._renames:
            self._files.move(f"{index}.new", index)
        write_text_atomic(self._folder / STATE, snapshot.text())
        self._known = snapshot

    def _fetch(self, there: Snapshot) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self._folder / STATE, Snapshot(sequence=there.sequence, whole=False).text())
        self._remove(self._local().keys() - there.files.keys())
        local = self._local()
        wanted = [
            name
            for name, file in there.files.items()
            if local.get(name, (-1, 0))[0] != file.size or file_sha256(self._folder / name) != file.sha256
        ]
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda name: self._receive(name, there.files[name]), wanted))
        times = self._local()
        files = {name: MirroredFile(file.size, file.sha256, times[name][1]) for name, file in there.files.items()}
        self._known = Snapshot(sequence=there.sequence, files=files)
        write_text_atomic(self._folder / STATE, self._known.text())
        return len(wanted)

    def _local(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of every file that counts."""
        found = {}
        for folder, below, names in os.walk(self._folder):
            inside = Path(folder).relative_to(self._folder)
            below[:] = [n for n in below if not n.startswith(".") and (inside / n).as_posix() not in _LEFT_OUT]
            for name in names:
                path = Path(folder, name)
                if name.startswith(".") or path.is_symlink():
                    continue
                try:
                    stat = path.stat()
                except FileNotFoundError:  # an old checkpoint, just removed
                    continue
                found[path.relative_to(self._folder).as_posix()] = (stat.st_size, stat.st_mtime_ns)
        return found

    def _remove(self, names: Iterable[str]) -> None:
        """And the folders that this leaves empty: a checkpoint's would be taken for one."""
        for name in names:
            path = self._folder / name
            path.unlink()
            for parent in path.parents:
                if parent == self._folder or any(parent.iterdir()):
                    break
                parent.rmdir()

    def _hashed(self, name: str, size: int, mtime_ns: int) -> MirroredFile:
        """Of a file that did not change since it was last sent, what it was then."""
        known = self._known.files.get(name)
        if known is not None and (known.size, known.mtime_ns) == (size, mtime_ns):
            return known
        sha256 = hashlib.sha256()
        for piece in self._pieces(name, size):
            sha256.update(piece)
        return MirroredFile(size, sha256.hexdigest(), mtime_ns)

    def _send(self, name: str, file: MirroredFile) -> None:
        sha256 = hashlib.sha256()
        with self._files.open_output_stream(f"{self._path}/{OBJECTS}/{file.sha256}") as target:
            for piece in self._pieces(name, file.size):
                sha256.update(piece)
                target.write(piece)
        if sha256.hexdigest() != file.sha256:
            raise _MovedError(name)

    def _pieces(self, name: str, size: int) -> Iterator[bytes]:
        """The first `size` bytes of a file: what stands behind them was written meanwhile."""
        try:
            with (self._folder / name).open("rb") as stream:
                while size and (piece := stream.read(min(size, _PIECE))):
                    yield piece
                    size -= len(piece)
        except FileNotFoundError as error:
            raise _MovedError(name) from error

    def _receive(self, name: str, file: MirroredFile) -> None:
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.fetching")
        sha256 = hashlib.sha256()
        with (
            temporary.open("wb") as sink,
            self._files.open_input_stream(f"{self._path}/{OBJECTS}/{file.sha256}") as src,
        ):
            while piece := src.read(_PIECE):
                sha256.update(piece)
                sink.write(piece)
        if sha256.hexdigest() != file.sha256:
            raise ValueError(f"{self.name}/{OBJECTS}/{file.sha256} is damaged: remove the run there, and make it again")
        temporary.replace(target)

    def _require_writable(self) -> None:
        """Before anything starts: at its end a job would have nowhere to go."""
        probe = f"{self._path}/{OBJECTS}/probe"
        try:
            self._files.create_dir(f"{self._path}/{OBJECTS}", recursive=True)
            with self._files.open_output_stream(probe) as target:
                target.write(b"\0")
            self._files.delete_file(probe)
        except OSError as error:
            raise ValueError(
                f"runtime.mirror: {self.name} cannot be written ({one_line(error)}): name a bucket that exists and "
                "that this node may write to"
            ) from error

    def _index(self) -> Snapshot | None:
        try:
            with self._files.open_input_stream(f"{self._path}/{INDEX}") as stream:
                return Snapshot.of(stream.read(), f"{self.name}/{INDEX}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OSError(f"{self.name} cannot be read: {one_line(error)}") from error

    def _state(self) -> Snapshot | None:
        path = self._folder / STATE
        return Snapshot.of(path.read_bytes(), str(path)) if path.is_file() else None


def _still(files: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {name: stat for name, stat in files.items() if not name.endswith(_GROWING)}


@contextmanager
def mirrored(folder: Path, uri: str | None, *, every_s: float = EVERY_S) -> Iterator[int]:
    """`folder` as the store below `uri` has it, and the store kept up with it until the block ends; None: nothing.

    Yields how many files were fetched.
    """
    if uri is None:
        yield 0
        return
    mirror = Mirror(folder, uri_below(uri, folder.name))
    fetched = mirror.pull()
    ended = threading.Event()
    thread = threading.Thread(target=_keep_up, args=(mirror, ended, every_s), name="mirror", daemon=True)
    thread.start()
    try:
        yield fetched
    except BaseException:
        # What was reached is worth keeping: a machine is often told before it is taken away.
        _end(thread, ended)
        try:
            _finish(mirror)
        except (OSError, ValueError) as error:
            _LOG.error("%s was not brought to %s: %s", folder, mirror.name, one_line(error))
        raise
    _end(thread, ended)
    _finish(mirror)


def _keep_up(mirror: Mirror, ended: threading.Event, every_s: float) -> None:
    while not ended.wait(every_s):
        try:
            mirror.push()
        except ForeignFolderError as error:
            _LOG.error("%s", error)
            return
        except OSError as error:
            _LOG.warning("%s cannot be written, tried again in %.0f s: %s", mirror.name, every_s, one_line(error))


def _end(thread: threading.Thread, ended: threading.Event) -> None:
    ended.set()
    thread.join()


def _finish(mirror: Mirror) -> None:
    for _ in range(_TRIES):
        try:
            if mirror.push():
                return
        except OSError as error:
            raise OSError(
                f"{mirror.name} has an earlier state of the run ({one_line(error)}): give the same command again, "
                "which brings it what is on this disk"
            ) from error
        time.sleep(1.0)
    raise OSError(f"{mirror.name} has an earlier state of the run, whose files keep changing: let one job work on it")

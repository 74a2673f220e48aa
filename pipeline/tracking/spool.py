"""A run's records on disk until the tracking store has taken them.

In: records from any thread.  Out: the same records in order, to one reader; a file that a later process delivers.

A spool is one file of JSON lines: a header, which is enough to find or make the run, then the records.  It is locked
while its process lives, so a file that can be locked belongs to nobody any more.  Nothing is synchronised to the
platter: a killed process loses nothing, a machine that loses power may lose its last seconds.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

_log = logging.getLogger(__name__)
_SUFFIX = ".jsonl"
_ENCODER = json.JSONEncoder(default=str)
"""Made once: `json.dumps` would make one a record."""

Record = dict[str, Any]


class Spool:
    """One file; appending takes microseconds and never waits for the store."""

    def __init__(self, path: Path, descriptor: int, header: Record) -> None:
        self.path, self.header = path, header
        self._descriptor, self._guard = descriptor, threading.Lock()
        self._start = len(_line(header))
        self._position, self._end = self._start, os.fstat(descriptor).st_size
        self._broken = False

    @classmethod
    def create(cls, folder: Path, header: Record) -> Self:
        """A new, locked spool in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        readable = re.sub(r"[^\w.-]+", "_", str(header.get("name", "run")))[:60]
        path = folder / f"{readable}-{os.getpid()}-{secrets.token_hex(6)}{_SUFFIX}"
        # Locked under a name that nobody looks for: an empty file must not be taken for an abandoned one.
        hidden = path.with_suffix(".new")
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, _line(header))
        hidden.rename(path)
        return cls(path, descriptor, header)

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """The spool of a process that is gone; None where it lives, or where another took it first."""
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and (header := _first_record(path)) is not None:
                    return cls(path, descriptor, header)
            except BlockingIOError:
                pass
            os.close(descriptor)
        return None

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep a record; on a full disk it is lost, which is said once: training goes on."""
        data = _line(record)
        with self._guard:
            try:
                written = os.write(self._descriptor, data)
                if written < len(data):
                    os.ftruncate(self._descriptor, self._end)
                    raise OSError("only part of a record fitted on the disk")
                self._end += len(data)
            except OSError as error:
                if not self._broken:
                    _log.error("tracking: %s takes no more records (%s); they are lost", self.path, error)
                self._broken = True

    def read(self, max_bytes: int = 1 << 18) -> tuple[list[Record], int]:
        """The oldest records that were not delivered, and the position behind them."""
        size = max_bytes
        while True:
            data = os.pread(self._descriptor, size, self._position)
            complete = data[: data.rfind(b"\n") + 1]
            if complete or len(data) < size:
                break
            size *= 4  # a record longer than that, such as a large table
        return [json.loads(line) for line in complete.splitlines()], self._position + len(complete)

    def delivered(self, position: int) -> None:
        """All before `position` has arrived; the space is given back when nothing waits."""
        with self._guard:
            self._position = position
            if position >= self._end > self._start:
                os.ftruncate(self._descriptor, self._start)
                self._position = self._end = self._start

    @property
    def pending_bytes(self) -> int:
        """How much waits."""
        return self._end - self._position

    def release(self, *, remove: bool) -> None:
        """Unlock; a spool that was delivered is removed."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


def abandoned(folder: Path, store: str, key: str | None = None) -> Iterator[Spool]:
    """Spools of processes that are gone, for this store (and run); each is locked until it is released."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        spool = Spool.take(path)
        if spool is None:
            continue
        if spool.header.get("store") == store and key in (None, spool.header.get("key")):
            yield spool
        else:
            spool.release(remove=False)


def any_waiting(folder: Path) -> bool:
    """Whether there is anything to look at."""
    return next(folder.glob(f"*{_SUFFIX}"), None) is not None


def _line(record: Mapping[str, Any]) -> bytes:
    return (_ENCODER.encode(record) + "\n").encode()


def _first_record(path: Path) -> Record | None:
    with path.open("rb") as stream:
        line = stream.readline()
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        _log.error("tracking: %s is no spool: its first line is damaged", path)
        return None
    return record if isinstance(record, dict) else None

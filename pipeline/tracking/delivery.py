"""From a run's spool to the tracking store, in the background, until everything has arrived.

In: a spool and a store.  Out: the run in the store.  At least once, and idempotent: see `writer`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.tracking.params import redact
from pipeline.tracking.spool import Record, Spool, abandoned
from pipeline.tracking.store import Store, is_temporary, store_errors
from pipeline.tracking.writer import RunWriter

_log = logging.getLogger(__name__)
INTERVAL_S = 2.0
"""Between two looks at the spool."""
MAX_PAUSE_S = 15.0
"""Longest rest between two knocks at a store that is away."""
_FULL_BYTES = 1 << 17

_LINES = threading.BoundedSemaphore(2)
"""Runs of this process that send at the same time: a server that all of them knock at answers none within its time."""


class Delivery:
    """One run's background thread."""

    def __init__(self, spool: Spool, store: Store, *, interval_s: float = INTERVAL_S) -> None:
        self.writer = RunWriter(store, spool.header, spool.path.parent)
        self._spool, self._interval_s = spool, interval_s
        self._wake, self._closing, self._gone = threading.Event(), threading.Event(), threading.Event()
        self._turn, self._progress_s = threading.Lock(), time.monotonic()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """From now on in the background."""
        self._thread.start()

    def begin(self) -> None:
        """Make or find the run before anything else happens; raises where that cannot be done."""
        try:
            with self._turn:
                self.writer.begin()
        except BaseException:
            self._spool.release(remove=True)
            raise

    def add(self, record: Record) -> None:
        """Keep a record for the store; microseconds."""
        if self._closing.is_set():
            raise RuntimeError("something was logged to a run that is closed")
        self._spool.append(record)
        if self._spool.pending_bytes > _FULL_BYTES:
            self._wake.set()

    def flush(self) -> bool:
        """Deliver now; False where the store would not take it (everything is kept)."""
        return self._gone.is_set() or self._send()

    def finish(self, last: Record | None) -> None:
        """Nothing comes after `last`; returns at once."""
        if last is not None:
            self._spool.append(last)
        self._progress_s = time.monotonic()
        self._closing.set()
        self._wake.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether all has arrived within that time; call it after `finish`."""
        self._thread.join(max(timeout_s, 0.0))
        return self._gone.is_set()

    @property
    def progress_s(self) -> float:
        """When (of `time.monotonic`) the store last took something, or could first have."""
        return self._progress_s

    def _work(self) -> None:
        pause = 0.0
        while True:
            arrived = self._send()
            if arrived and self._closing.is_set() and self._spool.pending_bytes == 0:
                self._spool.release(remove=True)
                self._gone.set()
                return
            if arrived:
                pause = 0.0
                self._wake.wait(self._interval_s)
            else:
                # However much waits: a store that is away gets a rest between two knocks.
                pause = min(max(2 * pause, 0.25), MAX_PAUSE_S)
                time.sleep(pause)
            self._wake.clear()

    def _moved(self) -> None:
        self._progress_s = time.monotonic()

    def _send(self) -> bool:
        with self._turn, _LINES:
            try:
                if self.writer.run_id is None:  # what an earlier attempt at this run left comes first
                    deliver_abandoned(self._spool.path.parent, self.writer.store, self._spool.header["key"])
                send_all(self._spool, self.writer, self._moved)
            except store_errors() as error:
                _log.info("tracking waits: %s", redact(str(error)))
                return False
            return True


def send_all(spool: Spool, writer: RunWriter, moved: Callable[[], None] = lambda: None) -> None:
    """Deliver what is in the spool; raises what a store that is away raises, and keeps the rest."""
    writer.begin()
    moved()
    while True:
        records, position = spool.read()
        if not records:
            return
        try:
            writer.write(records)
        except store_errors() as error:
            if is_temporary(error):
                raise
            _send_singly(records, writer)
        spool.delivered(position)
        moved()


def _send_singly(records: list[Record], writer: RunWriter) -> None:
    """One of them is refused for good, such as a param with another value: it must not hold up the others."""
    for record in records:
        try:
            writer.write([record])
        except store_errors() as error:
            if is_temporary(error):
                raise
            _log.error("tracking: %s was not stored: %s", record["kind"], redact(str(error)))


def deliver_abandoned(folder: Path, store: Store, key: str | None = None) -> int:
    """What killed processes, or those that found no store, left behind; the number of runs that are complete now.

    A run whose process was killed ends as KILLED.
    """
    complete = 0
    for spool in abandoned(folder, store.identity, key):
        arrived = False
        try:
            writer = RunWriter(store, spool.header, folder, late=True)
            send_all(spool, writer)
            writer.end_late()
            arrived = True
            complete += 1
        except store_errors() as error:
            _log.info("tracking: %s waits on: %s", spool.path, redact(str(error)))
        finally:
            spool.release(remove=arrived)
    return complete

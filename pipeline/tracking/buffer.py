"""Metrics on their way to a store, off the training loop's path.

In: points from any thread.  Out: batches to `send`, from one background thread; what never arrives, in a file.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    step: int
    timestamp_ms: int


class MetricBuffer:
    """Collects points and sends them when there are `max_points`, or after `interval_s`.

    `send` is called with batches of at most `max_points`, in order, never twice at once; when it raises, the points
    wait for the next turn.  What cannot be sent in the end is appended to `spill` as JSON lines: a tracking server that
    is away costs a message, not a run.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Point]], None],
        *,
        spill: Path,
        errors: tuple[type[Exception], ...],
        max_points: int = 500,
        interval_s: float = 3.0,
        close_attempts: int = 3,
    ) -> None:
        self._send, self._spill, self._errors = send, spill, errors
        self._max_points, self._interval_s, self._close_attempts = max_points, interval_s, close_attempts
        self._points: list[Point] = []
        self._guard = threading.Lock()  # of the list
        self._sending = threading.Lock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Take in one value of each metric; returns at once."""
        now = time.time_ns() // 1_000_000
        points = [Point(name, float(value), int(step), now) for name, value in values.items()]
        with self._guard:
            if self._closed.is_set():
                raise RuntimeError("metrics were logged to a run that is closed")
            self._points += points
            full = len(self._points) >= self._max_points
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="metric-buffer", daemon=True)
                self._thread.start()
        if full:
            self._wake.set()

    def flush(self) -> bool:
        """Send everything now; False where the store would not take it (the points are kept)."""
        with self._sending:
            while True:
                with self._guard:
                    batch = self._points[: self._max_points]
                if not batch:
                    return True
                try:
                    self._send(batch)
                except self._errors as error:
                    _log.info("metrics are waiting: %s", error)
                    return False
                with self._guard:
                    del self._points[: len(batch)]

    def close(self) -> None:
        """Send the rest, or put it in the spill file."""
        with self._guard:
            self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        for attempt in range(self._close_attempts):
            if self.flush():
                return
            if attempt + 1 < self._close_attempts:
                time.sleep(0.2 * 2**attempt)
        self._spill.parent.mkdir(parents=True, exist_ok=True)
        with self._spill.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(asdict(point)) + "\n" for point in self._points)
        _log.error("the tracking store did not take %d metrics; they are in %s", len(self._points), self._spill)

    def _work(self) -> None:
        while not self._closed.is_set():
            self._wake.wait(self._interval_s)
            self._wake.clear()
            if not self._closed.is_set() and not self.flush():
                # However full: a store that is away gets a rest between two knocks.
                self._closed.wait(self._interval_s)

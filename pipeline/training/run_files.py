"""What a training run writes while it trains: metrics at once, checkpoints in the background.

In: records and states.  Out: a metrics log and checkpoints, written by the worker of rank 0 alone.

Nothing is raised where it happens: the other workers would wait for this one. `check` and `finish` raise it, where the
loop lets all workers agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.metrics_log import MetricsLog, Record


class RunFiles:
    """Metrics and checkpoints of one run; as a context it ends when the last checkpoint is on disk."""

    def __init__(self, checkpoints: CheckpointStore, log: MetricsLog, *, active: bool) -> None:
        """Only an `active` one (rank 0) writes; for the others every call does nothing."""
        self._checkpoints, self._log, self._active = checkpoints, log, active
        self._failed_record: Exception | None = None
        self._failed_write: Exception | None = None
        self._pending: Future[Path] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")

    def record(self, record: Record) -> None:
        """Append one step's metrics."""
        if not self._active:
            return
        try:
            self._log.append(record)
        except OSError as error:
            self._failed_record = self._failed_record or error

    def checkpoint(self, updates: int, state: Mapping[str, Tensor]) -> None:
        """Begin to write a checkpoint, once the one before is written; `state` must not change any more."""
        self.drain()
        if self._active and self._failed_write is None:
            self._pending = self._thread.submit(self._checkpoints.save, updates, state)

    def drain(self) -> None:
        """Wait for the checkpoint that is being written: called before a snapshot, only one is held at a time."""
        if self._pending is not None:
            self._failed_write = self._failed_write or _failure(self._pending)
            self._pending = None

    def check(self) -> None:
        """Raise what has gone wrong so far; waits for nothing."""
        if self._pending is not None and self._pending.done():
            self.drain()
        if failure := self._failed_write or self._failed_record:
            raise failure

    def finish(self) -> None:
        """Wait until everything is on disk, and raise what went wrong."""
        self.drain()
        self.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)


def _failure(write: Future[Path]) -> Exception | None:
    error = write.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error

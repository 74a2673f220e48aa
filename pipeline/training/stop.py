"""SIGTERM during training: the driver asks for a stop, the workers save a checkpoint at their next step and end.

The request is a file in the stage's folder, which driver and workers share anyway.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOP = "stop-requested"
"""Name of the file in a stage's folder."""


class TrainingStopped(Exception):  # noqa: N818 - not an error
    """Training ended as asked, its state saved."""

    def __init__(self, updates: int, steps: int) -> None:
        super().__init__(f"stopped after {updates} of {steps} updates; the same command continues there")
        self.updates, self.steps = updates, steps


@contextmanager
def stop_on_sigterm(path: Path) -> Iterator[None]:
    """While the block runs, the first SIGTERM makes the file `path`; a second one does what it did before.

    So does the first one itself where it came too late for the block to stop: what follows the block must not run.

    Only the main thread gets signals: in another one the block runs as it is.
    """
    path.unlink(missing_ok=True)  # of a driver that was killed while it waited
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        path.touch()

    signal.signal(signal.SIGTERM, ask)
    try:
        yield
        unheard = path.exists()
    finally:
        signal.signal(signal.SIGTERM, before)
        path.unlink(missing_ok=True)
    if unheard:
        signal.raise_signal(signal.SIGTERM)

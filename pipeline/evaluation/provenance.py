"""Where a result came from and what it cost: the commit of the code, and the peak memory of a block of work.

In: the project's root; the process tree below this process.  Out: a `Commit`, and bytes.
"""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit of a checkout."""

    sha: str
    """Full hash, or "unknown" outside a git checkout."""
    dirty: bool
    """Whether tracked files differ from it."""

    def __str__(self) -> str:
        return self.sha + ("+dirty" if self.dirty else "")


def git_commit(root: Path) -> Commit:
    """Commit of the checkout at `root`; unknown without git, or where `root` lies inside somebody else's repository."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return Commit(UNKNOWN, dirty=False)
    sha = _git(root, "rev-parse", "HEAD")
    if sha is None:  # a repository without a commit
        return Commit(UNKNOWN, dirty=False)
    return Commit(sha, dirty=bool(_git(root, "status", "--porcelain", "--untracked-files=no")))


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # `status` must not write the user's index
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class PeakRss:
    """Peak memory of this process and all below it while the block runs.

        with PeakRss() as peak:
            ...
        peak.bytes

    A thread adds up the resident sets every `interval_s`.  Ray's head, raylet and workers count where this process
    started them.  Pages that processes share (Ray's object store) count in each of them, so the figure errs upwards.
    A spike of a single process between two samples is caught by the kernel's own high-water mark.
    """

    def __init__(self, interval_s: float = 0.5) -> None:
        self._interval_s = interval_s
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-rss", daemon=True)

    @property
    def bytes(self) -> int:
        """Peak so far."""
        return self._peak

    def __enter__(self) -> Self:
        self._before = _high_water_marks()
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        for before, after in zip(self._before, _high_water_marks(), strict=True):
            if after > before:  # else the mark was set before this block
                self._peak = max(self._peak, after)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        this = psutil.Process()
        total = 0
        for process in [this, *this.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:  # it ended since it was listed
                continue
        self._peak = max(self._peak, total)


def _high_water_marks() -> tuple[int, int]:
    """Largest resident set that this process, and any one ended child of it, ever had, in bytes."""
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    )

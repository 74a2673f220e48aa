"""Where a result came from and what it cost: the commit of the code, and the peak memory of a block of work.

In: the project's root; the process tree below this process.  Out: a `Commit`, and bytes.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

UNKNOWN = "unknown"
SUBMITTED = "SEMI_COMMIT"
"""Environment variable with the commit of a submitted job, whose files travel without `.git`."""


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
        submitted, plus, _ = os.environ.get(SUBMITTED, UNKNOWN).partition("+")
        return Commit(submitted, dirty=bool(plus))
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
    A spike of this process between two samples is caught by the kernel's own high-water mark.
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
        self._mark = _high_water_mark()
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        mark = _high_water_mark()
        if mark > self._mark:  # else it was set before this block
            self._peak = max(self._peak, mark)

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


def _high_water_mark() -> int:
    """Largest resident set that this process ever had, in bytes; 0 where the system does not tell.

    Not `getrusage`: its figure also holds what the parent had when it forked, so a small job started by a large
    process would be charged with that one's memory.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0

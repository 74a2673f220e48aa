"""A job's process and all that came from it, for tests that kill some of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
RUN_LIMIT_S = 600.0
# Two of Ray's agents outlive a killed driver by a minute; its workers do not.
GONE_LIMIT_S = 90.0
POLL_S = 0.1
MARKER = "SEMI_CHAOS_TEST"


@dataclass(kw_only=True)
class Driver:
    """One `python -m jobs.NAME`, and every process that came from it."""

    process: psutil.Popen
    log: Path
    family: set[psutil.Process] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.began

    def wait(
        self, until_s: float = RUN_LIMIT_S, *, stop: Callable[[], bool] = lambda: False, poll_s: float = POLL_S
    ) -> bool:
        """Watch until the process ends (True), `stop` holds, or the clock shows `until_s` since its start."""
        while self.process.poll() is None:
            remaining = until_s - self.seconds()
            if remaining <= 0 or stop():
                return False
            self.family.update(_children(self.process))
            time.sleep(min(poll_s, remaining))
        return True

    def descendants(self, title: str) -> list[psutil.Process]:
        """Living ones with `title` in theirs: Ray gives a worker process the title of what it runs."""
        return sorted((child for child in _children(self.process) if title in _title(child)), key=lambda p: p.pid)

    def kill(self) -> None:
        """SIGKILL to the driver alone."""
        self.family.update(_children(self.process))
        self.process.kill()
        self.process.wait()

    def finish(self, code: int = 0) -> None:
        """Wait for this exit code, and for the processes of the run to go."""
        assert self.wait(), f"no end after {RUN_LIMIT_S} s"
        assert self.process.returncode == code, self.log.read_text()
        self.wait_until_gone()

    def wait_until_gone(self) -> None:
        """Nothing of the run may outlive it for long."""
        limit = time.monotonic() + GONE_LIMIT_S
        while left := [child for child in self.family if lives(child)]:
            assert time.monotonic() < limit, f"outlived their driver: {[_title(child) for child in left]}"
            time.sleep(POLL_S)

    def end(self) -> None:
        """Leave nothing behind, whatever failed."""
        for process in (self.process, *self.family):
            if lives(process):
                process.kill()


def start_driver(job: str, arguments: Sequence[str], *, log: Path, marker: Path) -> Driver:
    """`python -m jobs.JOB` with its output in `log`; it and all below it carry `marker` in their environment."""
    command = [sys.executable, "-m", f"jobs.{job}", *arguments]
    environment = {**os.environ, MARKER: str(marker)}
    with log.open("ab") as sink:
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.STDOUT)
    return Driver(process=process, log=log)


def lives(process: psutil.Process) -> bool:
    """Whether it runs and is not only waiting to be reaped."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def carries_marker(process: psutil.Process, marker: Path) -> bool:
    """Whether a living process came from a driver with this marker."""
    try:
        return process.environ().get(MARKER) == str(marker) and lives(process)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""

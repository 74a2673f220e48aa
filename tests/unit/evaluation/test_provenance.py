"""The commit of a checkout, and the peak memory of a process tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.evaluation.provenance import Commit, PeakRss, git_commit

MIB = 2**20


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("one\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_commit_of_a_clean_and_of_a_changed_checkout(checkout: Path) -> None:
    sha = git(checkout, "rev-parse", "HEAD")
    (checkout / "untracked.txt").write_text("does not count")
    assert git_commit(checkout) == Commit(sha, dirty=False)
    (checkout / "code.py").write_text("two\n")
    assert git_commit(checkout) == Commit(sha, dirty=True)
    assert str(git_commit(checkout)) == f"{sha}+dirty"


def test_a_folder_inside_somebody_elses_repository_is_unknown(checkout: Path) -> None:
    (checkout / "unpacked").mkdir()
    assert git_commit(checkout / "unpacked") == Commit("unknown", dirty=False)


def test_no_repository_no_commit_and_no_git_are_unknown(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    assert git_commit(tmp_path / "empty").sha == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert git_commit(checkout) == Commit("unknown", dirty=False)


def allocate(mebibytes: int, then: str = "time.sleep(0.6)") -> list[str]:
    return [sys.executable, "-c", f"import time, subprocess, sys; block = bytearray({mebibytes} << 20); {then}"]


def test_peak_adds_up_children_and_grandchildren() -> None:
    grandchild = "subprocess.run([sys.executable, '-c', 'import time; b = bytearray(150 << 20); time.sleep(0.6)'])"
    with PeakRss(interval_s=0.05) as idle:
        pass
    with PeakRss(interval_s=0.05) as peak:
        subprocess.run(allocate(150, grandchild), check=True)
    assert 290 * MIB < peak.bytes - idle.bytes < 450 * MIB


def test_peak_catches_a_spike_between_samples() -> None:
    code = (
        "from pipeline.evaluation.provenance import PeakRss\n"
        "with PeakRss(interval_s=60) as peak:\n"
        "    block = bytearray(200 << 20); del block\n"
        "with PeakRss(interval_s=60) as later:\n"
        "    pass\n"
        "print(peak.bytes, later.bytes)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    spike, later = map(int, done.stdout.split())
    assert spike > 200 * MIB
    assert later < 150 * MIB  # an earlier high-water mark is not this block's


def test_the_sampler_ends_with_its_block() -> None:
    import threading

    with PeakRss() as peak:
        assert any(thread.name == "peak-rss" for thread in threading.enumerate())
    assert not any(thread.name == "peak-rss" for thread in threading.enumerate())
    assert peak.bytes > 10 * MIB

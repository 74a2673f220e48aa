"""Freed tensors are used again instead of new pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from pipeline.training.allocator import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
for _ in range(20):  # until the heap has the places
    torch.ones(16, 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16, 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str, **environment: str) -> int | None:
    """Page faults of ten tensors of 64 MiB, one after another; None where the allocator cannot or may not be set."""
    run = subprocess.run(
        [sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, env={"PATH": "", **environment}
    )
    assert run.returncode in (0, 3), run.stderr
    return None if run.returncode else int(run.stdout)


def test_freed_tensors_are_used_again() -> None:
    kept = _faults("keep")
    if kept is None:
        pytest.skip("the C library has no mallopt")
    default = _faults("default")
    assert default is not None
    assert kept < 1000 < default, "64 MiB are 16,384 pages of 4 KiB"


def test_an_allocator_that_the_user_set_up_is_left_alone() -> None:
    assert _faults("keep", MALLOC_TRIM_THRESHOLD_="1000000") is None

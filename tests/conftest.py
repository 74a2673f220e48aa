"""Settings of every test: processes, property tests, and which tests may run beside each other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Worker processes (Ray's and our own) do not see pytest's `pythonpath`, and must not each take every core.
os.environ["PYTHONPATH"] = str(ROOT)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.tiny_lm import llm, tiny_lm_dir  # noqa: E402 - torch reads the environment when it is imported

__all__ = ["llm", "tiny_lm_dir"]

# The machine is shared: a slow example is no failure, and the same examples are tried everywhere.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("house")


@pytest.fixture
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the integration tests, all in one process: two Ray clusters beside each other starve two cores."""
    for item in items:
        folder = item.path.relative_to(ROOT).parts[1]
        group = "ray" if folder == "integration" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: "integration" not in item.path.parts)


def pytest_collection_finish() -> None:
    """Ray reads its environment when it is imported: a session that wants a token must come first."""
    if "ray" in sys.modules:
        raise pytest.UsageError(
            "a test module imports ray (or what imports it) when it is collected: import it in the test"
        )

"""Settings of every test: processes, property tests, and which tests may run beside each other."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

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


class _Schedule(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests stay in one process; integration tests all in the same: two Ray clusters starve two cores.

    xdist's own groups (`--dist loadgroup`) do nothing under pytest 9.2, whose node ids take no suffix.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "integration" if "/integration/" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Schedule:
    """Where `-n` is given."""
    config.option.loadscopereorder = False
    return _Schedule(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the integration tests, which take longest."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


def pytest_collection_finish() -> None:
    """Ray reads its environment when it is imported: a session that wants a token must come first."""
    if "ray" in sys.modules:
        raise pytest.UsageError(
            "a test module imports ray (or what imports it) when it is collected: import it in the test"
        )

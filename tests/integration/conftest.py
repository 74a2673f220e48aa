"""One Ray session for all integration tests: starting one takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.schema import RuntimeConfig
from pipeline.runtime.session import Session, ray_session

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Session]:
    """A private cluster of two CPUs, whatever this machine has."""
    with ray_session(RuntimeConfig(), root=ROOT, num_cpus=2) as session:
        yield session

"""A fresh SQLite store for each test, copied from one that was made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.tracking.store import DATABASE, Store, local_uri


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs_dir = tmp_path_factory.mktemp("store")
    _ = Store(local_uri(runs_dir), "semi").client  # makes the tables: 2 s
    return runs_dir / DATABASE


@pytest.fixture
def runs_dir(tmp_path: Path, empty_store: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(empty_store, folder / DATABASE)
    return folder

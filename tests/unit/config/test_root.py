from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.root import project_root, require_checkout


def test_root_holds_the_project(root: Path) -> None:
    assert project_root() == root
    assert (project_root() / "pyproject.toml").is_file()


def test_checkout_is_accepted_from_its_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert require_checkout() == root


def test_another_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="`pipeline` was imported from .*, but the current directory is .*: run"):
        require_checkout()

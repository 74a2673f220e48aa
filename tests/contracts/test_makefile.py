"""The commands of the Makefile: set-up happens once, and says clearly what it lacks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COMMANDS = ("setup", "demo", "test", "suite", "chaos", "nodes", "lint", "ui", "clean")


def make(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PATH": path} if path is not None else {})}
    # An outer `make test` must not hand its own flags down.
    environment.pop("MAKEFLAGS", None)
    command = [shutil.which("make") or "make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    """A folder with the Makefile and the lock file, and nothing installed."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(root / name, tmp_path / name)
    return tmp_path


def pretend_installed(clone: Path) -> Path:
    stamp = clone / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    os.utime(clone / "requirements.lock", (1, 1))
    return stamp


@pytest.mark.parametrize("command", ["setup", "demo", "test", "chaos", "lint", "ui"])
def test_a_second_run_installs_nothing(command: str, clone: Path) -> None:
    assert "pip install" in make(clone, "-n", command).stdout
    pretend_installed(clone)
    second = make(clone, "-n", command)
    assert second.returncode == 0
    assert "pip" not in second.stdout.replace("pipeline", "")
    assert "venv " not in second.stdout


def test_a_changed_lock_file_is_installed(clone: Path) -> None:
    stamp = pretend_installed(clone)
    later = stamp.stat().st_mtime + 10
    os.utime(clone / "requirements.lock", (later, later))
    assert "pip install" in make(clone, "-n", "demo").stdout


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with a shell's tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "bash", "touch", "test"):
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_no_python_is_said_clearly(clone: Path, tools: Path) -> None:
    script(tools / "python3.11", "echo 'pyenv: python3.11: command not found'; exit 127")
    result = make(clone, "setup", path=str(tools))
    assert result.returncode == 2
    assert "error: no Python 3.11 or 3.12 that can make virtual environments was found" in result.stderr
    assert "PYTHON=/path/to/python3.11" in result.stderr
    assert not (clone / ".venv").exists()


def test_an_environment_of_another_python_is_refused(clone: Path, tools: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    script(clone / ".venv" / "bin" / "python", 'test "$1" = --version && echo "Python 3.9.1" && exit 0; exit 1')
    result = make(clone, "setup", path=str(tools))
    assert result.returncode == 2
    assert "error: .venv holds Python 3.9.1, needed is 3.11 or 3.12: remove .venv and try again" in result.stderr


def test_setup_installs_the_lock_file_once(clone: Path, tools: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    script(clone / ".venv" / "bin" / "python", 'test "$2" = pip && echo "$@" >> calls; exit 0')
    assert make(clone, "setup", path=str(tools)).returncode == 0
    assert make(clone, "setup", path=str(tools)).returncode == 0
    calls = (clone / "calls").read_text(encoding="utf-8").splitlines()
    assert len(calls) == 1
    assert calls[0].endswith("--requirement requirements.lock")


def test_a_failed_installation_is_tried_again(clone: Path, tools: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    script(clone / ".venv" / "bin" / "python", 'test "$2" != pip')
    assert make(clone, "setup", path=str(tools)).returncode == 2
    assert not (clone / ".venv" / ".installed").exists()


def test_help_lists_every_command(root: Path) -> None:
    shown = re.findall(r"^  make (\w+) +\S", make(root, "help").stdout, flags=re.MULTILINE)
    assert set(COMMANDS) <= set(shown)


def test_ci_is_lint_and_test(root: Path) -> None:
    script = root / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("make lint test")


def test_the_lock_file_pins_every_dependency(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (root / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert not [pin for pin in pins.values() if "+" in pin], "a local version tag is one machine's build"
    locked = {str(canonicalize_name(name)): version for name, version in pins.items()}
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), text


def test_tests_run_on_the_locked_versions(root: Path) -> None:
    from importlib.metadata import version

    lines = (root / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert Path(sys.prefix).is_dir()
    for name in ("torch", "ray", "deepspeed", "mlflow", "transformers", "pyarrow", "numpy", "pydantic"):
        assert version(name).partition("+")[0] == pins[name]

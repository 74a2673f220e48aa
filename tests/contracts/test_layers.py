"""The core runs without Ray, DeepSpeed and MLflow, and every import points down the layers."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

FRAMEWORKS = ("ray", "deepspeed", "mlflow")
WITH_FRAMEWORKS = ("pipeline.runtime", "pipeline.tracking")

# `None` in sys.modules is how Python marks a module that cannot be imported; find_spec honours it too.
IMPORT_CORE = f"""
import importlib, pkgutil, sys
for name in {FRAMEWORKS}:
    sys.modules[name] = None
import pipeline
names = [module.name for module in pkgutil.walk_packages(pipeline.__path__, "pipeline.")
         if not module.name.startswith({WITH_FRAMEWORKS})]
for name in names:
    importlib.import_module(name)
    print(name)
"""


def run(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)


def test_the_core_imports_without_the_frameworks(root: Path) -> None:
    result = run(IMPORT_CORE, root)
    assert result.returncode == 0, result.stderr
    imported = set(result.stdout.split())
    for layer in ("config", "data", "encoders", "shards", "episodes", "models", "training", "adaptation", "evaluation"):
        assert any(name.startswith(f"pipeline.{layer}.") for name in imported), f"{layer} is empty"


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_blocker_blocks(name: str, root: Path) -> None:
    result = run(f"import sys; sys.modules[{name!r}] = None; import {name}.data", root)
    assert result.returncode == 1
    assert "ModuleNotFoundError" in result.stderr


def test_jobs_import_in_moments(root: Path) -> None:
    """`--help`, a wrong key and a finished stage must not wait for what only the work needs."""
    heavy = {"torch", "transformers", "ray", "mlflow", "matplotlib", "rdkit", "scipy"}
    # `demo` imports the jobs of all stages.
    jobs = "jobs.demo, jobs.ui, jobs.verify_shards, jobs.inspect_shards, jobs.export_parquet"
    code = f"import sys, {jobs}; print(sorted({heavy} & sys.modules.keys()))"
    result = run(code, root)
    assert result.stdout == "[]\n", result.stderr


def test_imports_follow_the_layers(root: Path) -> None:
    result = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("pipeline/config/intruder.py", "import pipeline.models"),
        ("pipeline/data/intruder.py", "import pipeline.encoders"),
        ("pipeline/models/intruder.py", "def late():\n    import ray"),
        ("jobs/intruder.py", "import mlflow"),
        ("pipeline/tracking/intruder.py", "from ray import train"),
    ],
)
def test_the_contracts_catch_an_intruder(module: str, line: str, root: Path, tmp_path: Path) -> None:
    """A contract that nothing can break proves nothing: the same settings on a copy with one forbidden import."""
    for package in ("pipeline", "jobs"):
        for folder in [root / package, *(path.parent for path in (root / package).rglob("__init__.py"))]:
            copy = tmp_path / folder.relative_to(root)
            copy.mkdir(parents=True, exist_ok=True)
            (copy / "__init__.py").touch()
    (tmp_path / "pipeline" / "signal.py").touch()
    (tmp_path / "pyproject.toml").write_bytes((root / "pyproject.toml").read_bytes())
    (tmp_path / module).write_text(f"{line}\n", encoding="utf-8")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout
    assert module.removesuffix(".py").replace("/", ".") in result.stdout


def test_an_install_brings_dependencies_only(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["setuptools"]["packages"] == []

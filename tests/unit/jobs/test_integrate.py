"""Which configuration own data is integrated with; the whole is `tests/integration/test_user_story.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import integrate
from pipeline.config.load import load_config, to_yaml
from pipeline.config.schema import ExperimentConfig
from pipeline.runtime.mirror import Mirror


@pytest.fixture
def lost_run(tmp_path: Path) -> Path:
    """The bucket of a run that no machine has any more."""
    folder = tmp_path / "lost" / "first"
    folder.mkdir(parents=True)
    config = load_config(preset="smoke", overrides=["name=first", "integrate.chunk=7"])
    (folder / "config.yaml").write_text(to_yaml(config))
    mirror = Mirror(folder, (tmp_path / "bucket" / "first").as_uri())
    mirror.pull()
    assert mirror.push()
    return tmp_path / "bucket"


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[ExperimentConfig]:
    """Configurations that integration was begun with."""
    found: list[ExperimentConfig] = []
    monkeypatch.setattr(integrate, "_integrate_own", lambda args, config, root, directory: found.append(config))
    return found


@pytest.mark.parametrize(("options", "chunk"), [([], 7), (["--chunk", "5"], 5), (["--preset", "smoke"], None)])
def test_a_run_from_a_bucket_brings_its_configuration(
    lost_run: Path,
    used: list[ExperimentConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    chunk: int | None,
) -> None:
    settings = {"runs_dir": tmp_path / "here", "runtime.mirror": lost_run.as_uri()}
    command: list[Any] = ["integrate", "--name", "first", "--data", "pairs.csv", *options]
    command += [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    monkeypatch.setattr("sys.argv", command)
    integrate.main()
    (config,) = used
    assert config.integrate.chunk == (chunk or load_config(preset="smoke").integrate.chunk)
    assert config.runtime.mirror == lost_run.as_uri() and config.name == "first"


def test_options_that_exclude_each_other_are_told_before_anything_is_fetched(
    lost_run: Path, used: list[ExperimentConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"runs_dir": tmp_path / "here", "runtime.mirror": lost_run.as_uri()}
    command = ["integrate", "--name", "first", "--data", "pairs.csv", "--method", "cca_init", "--chunk", "5"]
    command += [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(ValueError, match="^--chunk: only --method semi reads pairs in chunks"):
        integrate.main()
    assert used == [] and not (tmp_path / "here").exists()

"""The search of the methods' settings as users start it: killed, called again on Ray; held-out datasets are gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.adaptation.tuning import TUNED
from pipeline.config.load import load_config
from pipeline.config.presets import build_preset
from tests.drivers import Driver, start_driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HELD_OUT = [dataset.name for dataset in build_preset("smoke").datasets if dataset.role == "held_out"]
SEARCH = ("--trials", "2", "--shots", "4", "--draws", "1", "--set", "integrate.encoders=1")
ON_RAY = ("--set", "runtime.engine=deepspeed", "--set", "runtime.workers=2")


class Searches:
    """Runs in one folder, trained without `audio`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drivers: list[Driver] = []

    def start(self, job: str, name: str, *options: str) -> Driver:
        settings = ("--set", f"runs_dir={self.folder}", "--set", 'validation=["audio"]')
        arguments = ["--preset", "smoke", "--name", name, *settings, *options]
        self.drivers.append(start_driver(job, arguments, log=self.folder / f"{name}.log", marker=self.folder))
        return self.drivers[-1]

    def trained(self, name: str) -> Path:
        """A run of that name with trained stages, in which no held-out dataset can be opened."""
        return Path(shutil.copytree(self.folder / "trained", self.folder / name))

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searches]:
    searches = Searches(tmp_path_factory.mktemp("methods"))
    try:
        for job in ("prepare_miniature", "extract_embeddings", "pretrain_projector", "meta_train"):
            searches.start(job, "trained").finish()
        for name in HELD_OUT:
            shutil.rmtree(searches.folder / "trained" / "embeddings" / name)
        yield searches
    finally:
        for driver in searches.drivers:
            driver.end()


@pytest.fixture(scope="module")
def straight(searches: Searches) -> Path:
    """A search in one process."""
    run = searches.trained("straight")
    searches.start("tune_methods", "straight", *SEARCH).finish()
    return run / "tune_methods"


def test_held_out_datasets_need_not_exist(straight: Path) -> None:
    rows = pq.read_table(straight / "trials.parquet").to_pylist()
    assert [(row["method"], row["trial"]) for row in rows] == [(method, n) for method in TUNED for n in range(2)]
    assert all(0.0 <= row["score"] <= 1.0 and row["error"] is None for row in rows)
    best = load_config(preset="smoke", file=straight / "best.yaml")
    assert best.integrate.finetune.steps in (30, 60, 120) and best.name == "smoke"


def test_killed_and_called_again_on_ray_it_repeats_no_trial_and_gives_the_same_table(
    searches: Searches, straight: Path
) -> None:
    folder = searches.trained("killed") / "tune_methods"
    driver = searches.start("tune_methods", "killed", *SEARCH)
    assert not driver.wait(stop=lambda: len(_written(folder)) >= 2, poll_s=0.02), searches.said("killed")
    driver.kill()
    driver.wait_until_gone()
    done = _written(folder)
    assert len(done) < 2 * len(TUNED) and not (folder / "trials.parquet").exists()
    searches.start("tune_methods", "killed", *SEARCH, *ON_RAY).finish()
    every = _written(folder)
    assert len(every) == 2 * len(TUNED) and every | done == every
    for name in ("trials.parquet", "best.yaml"):
        assert (folder / name).read_bytes() == (straight / name).read_bytes()


def _written(folder: Path) -> dict[Path, int]:
    """When each finished trial was."""
    return {file: file.stat().st_mtime_ns for file in (folder / "trials").rglob("*.json")}

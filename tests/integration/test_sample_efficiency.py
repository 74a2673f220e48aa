"""The sample-efficiency protocol at test size: every method, resumable, the same table however it was interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.schema import MethodName
from tests.drivers import ROOT, start_driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

METHODS: tuple[MethodName, ...] = get_args(MethodName)
SETTINGS = {
    "evaluate.methods": json.dumps(METHODS),
    "integrate.shots": '[4, 8, 5000, "full"]',  # no modality has 5,000 pairs
    "integrate.encoders": 2,
    "evaluate.design.seeds": 2,
    "evaluate.design.crossed_at": "[8]",
    "evaluate.design.further_encoders_at": "[8]",
    "evaluate.design.methods_at.semi_shuffled_text": "[8]",
}
MEASURED = ("seconds", "peak_bytes")


def _arguments(runs: Path, folder: str) -> list[str]:
    settings = {"runs_dir": runs, "evaluate.folder": folder, **SETTINGS}
    return ["--preset", "smoke", *[text for key, value in settings.items() for text in ("--set", f"{key}={value}")]]


def _job(job: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"jobs.{job}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("protocol")
    for job in ("prepare_miniature", "extract_embeddings", "pretrain_projector", "meta_train"):
        _job(job, "--preset", "smoke", "--set", f"runs_dir={runs}")
    _job("evaluate", *_arguments(runs, "straight"))
    return runs


@pytest.fixture(scope="module")
def table(runs: Path) -> pa.Table:
    return pq.read_table(runs / "smoke" / "straight" / "results.parquet")


def _written(cells: Path) -> dict[Path, int]:
    """When each finished group of fits was."""
    return {stamp.parent: (stamp.parent / "results.parquet").stat().st_mtime_ns for stamp in cells.rglob("complete-*")}


def _fits(table: pa.Table, **key: Any) -> set[tuple[int, int]]:
    rows = table.to_pylist()
    return {(r["draw"], r["seed"]) for r in rows if all(r[name] == value for name, value in key.items())}


def test_one_table_holds_every_fit_of_the_design_once(table: pa.Table) -> None:
    keys = ("dataset", "encoder", "method", "shots", "draw", "seed")
    rows = [tuple(row[key] for key in keys) for row in table.to_pylist()]
    assert len(set(rows)) == len(rows)
    assert set(table["method"].to_pylist()) == set(METHODS)
    assert set(table["shots"].to_pylist()) == {4, 8, None}
    first = {"dataset": "imu", "encoder": "imu-a"}
    assert _fits(table, method="scratch", shots=8, **first) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert _fits(table, method="scratch", shots=4, **first) == {(0, 0), (1, 1)}
    assert _fits(table, method="scratch", shots=None, **first) == {(0, 0), (0, 1)}
    assert _fits(table, method="ridge", shots=8, **first) == {(0, 0), (1, 0)}
    assert _fits(table, method="semi_shuffled_text", shots=4) == set()
    assert _fits(table, method="ridge", shots=4, encoder="imu-b") == set()
    assert _fits(table, method="ridge", shots=8, encoder="imu-b") == {(0, 0), (1, 0)}


def test_all_pairs_are_those_of_the_training_split(table: pa.Table, runs: Path) -> None:
    pairs = {row["pairs"] for row in table.to_pylist() if row["shots"] is None and row["dataset"] == "imu"}
    assert len(pairs) == 1 and 8 < pairs.pop() < 160


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.chaos)])
def test_killed_at_a_random_moment_the_same_command_ends_with_the_same_table(
    seed: int, runs: Path, table: pa.Table, tmp_path: Path
) -> None:
    folder = f"killed-{seed}"
    cells = runs / "smoke" / folder / "cells"
    groups = len(_written(runs / "smoke" / "straight" / "cells"))
    wanted = int(np.random.default_rng(seed).integers(5, groups - 5))
    arguments = _arguments(runs, folder)
    driver = start_driver("evaluate", arguments, log=tmp_path / "log", marker=tmp_path)
    try:
        assert not driver.wait(stop=lambda: len(list(cells.rglob("complete-*"))) >= wanted, poll_s=0.02)
        driver.kill()
        driver.wait_until_gone()
    finally:
        driver.end()
    done = _written(cells)
    assert len(done) >= wanted
    _job("evaluate", *arguments)
    again = pq.read_table(runs / "smoke" / folder / "results.parquet")
    assert again.drop_columns(MEASURED).equals(table.drop_columns(MEASURED))
    assert _written(cells) | done == _written(cells)
    # Other sizes or intervals are another table of the same fits.
    every = _written(cells)
    _job("evaluate", *arguments, "--set", "integrate.shots=[8]", "--set", "evaluate.bootstrap=20")
    assert _written(cells) == every

"""The miniature suite is a benchmark: its embeddings tell the attributes, many pairs are enough, few pairs are hard.

Minutes long, so `make suite` runs it and `make test` does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.presets import build_preset

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.suite, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runs = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "jobs.prepare_miniature", "--report", "--set", f"runs_dir={runs}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    read: dict[str, Any] = json.loads((runs / build_preset("miniature").name / "suite_report.json").read_text())
    return read


def test_embeddings_tell_the_attributes(figures: dict[str, Any]) -> None:
    assert len(figures["linear_probes"]) == 18
    assert figures["mean"]["linear_probe"] >= 0.90


def test_the_language_model_repeats_what_it_is_told(figures: dict[str, Any]) -> None:
    assert min(figures["steering"].values()) >= 0.95


def test_a_projector_from_scratch_works_with_all_pairs(figures: dict[str, Any]) -> None:
    assert figures["mean"]["scratch_full"] >= 0.85


def test_a_projector_from_scratch_fails_with_few_pairs(figures: dict[str, Any]) -> None:
    assert len(figures["scratch"]) == 5
    assert figures["mean"]["scratch_few"] <= 0.6 * figures["mean"]["scratch_full"]

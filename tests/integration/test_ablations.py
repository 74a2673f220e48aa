"""Ablations as users start them: one variant fails, the others are compared, and nothing is done twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.drivers import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FACTORS = {
    "factors": [
        {
            "name": "rank",
            # Five does not divide the width of 32: found when the hypernetwork is built.
            "variants": {
                2: {"hypernet.rank": 2},
                "broken": {"hypernet.heads": 5},
            },
        },
        {"name": "modalities", "variants": {1: {"meta.modalities": 1, "meta.encoders": 1}}},
        {"name": "noise", "base": {"pretrain.text_noise": 0.1}, "variants": {"more": {"episodes.text_noise": 2.0}}},
    ]
}
DONE = {"base", "rank/2", "modalities/1", "noise/base", "noise/more"}


def _ablate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    file = folder / "ablations.yaml"
    file.write_text(yaml.safe_dump({"preset": "smoke", "ablate": FACTORS}), encoding="utf-8")
    settings = {
        "runs_dir": folder,
        "integrate.encoders": 1,
        "evaluate.methods": "[semi, semi_no_finetune]",
        "tracking.enabled": "true",
    }
    arguments = [
        "--config",
        str(file),
        *[text for key, value in settings.items() for text in ("--set", f"{key}={value}")],
    ]
    command = [sys.executable, "-m", "jobs.ablate", *arguments, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("ablations")
    first = _ablate(folder, "--set", "runtime.engine=deepspeed")
    assert first.returncode == 0, first.stdout + first.stderr
    (folder / "stderr").write_text(first.stderr)
    yield folder


def _times(run: Path) -> dict[Path, int]:
    """When each trained or scored file was written."""
    kept = ("weights.safetensors", "adapter.safetensors", "samples.parquet")
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name in kept}


def test_every_variant_is_there_but_the_one_that_failed(folder: Path) -> None:
    run = folder / "smoke" / "ablations"
    rows = pq.read_table(run / "results.parquet").to_pylist()
    keys = {"base" if row["factor"] == "base" else f"{row['factor']}/{row['variant']}" for row in rows}
    assert keys == DONE
    # Two modalities, two methods and two draws each.
    assert len(rows) == len(DONE) * 2 * 2 * 2
    assert json.loads(next(row["changes"] for row in rows if row["variant"] == "2")) == {"hypernet.rank": 2}
    said = (folder / "stderr").read_text()
    assert said == "warning: variant rank/broken failed: hypernet.heads=5 does not divide hypernet.width=32\n"
    page = (run / "ablations.md").read_text()
    assert "| broken | `hypernet.heads=5` | failed: hypernet.heads=5 " in page
    for factor in ("rank", "modalities", "noise"):
        assert f"](plots/{factor}.png)" in page
        with Image.open(run / "plots" / f"{factor}.png") as image:
            assert image.width > 500


def test_variants_share_what_their_settings_allow(folder: Path) -> None:
    run = folder / "smoke"
    variants = run / "ablations" / "variants"
    own = run / "pretrain_projector"
    assert {(variants / key / "embeddings").resolve() for key in DONE} == {run / "embeddings"}
    assert {(variants / key / "pretrain_projector").resolve() for key in ("base", "rank/2", "modalities/1")} == {own}
    (other,) = {(variants / key / "pretrain_projector").resolve() for key in ("noise/base", "noise/more")}
    assert other != own and (other / "weights.safetensors").is_file()
    # The run keeps the configuration that it was trained with: here it has none yet.
    assert not (run / "config.yaml").exists() and (run / "ablations" / "config.yaml").exists()


def test_mlflow_has_a_run_a_variant(folder: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'semi'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "sweep"]
    below = {run.info.run_name: run for run in runs if run.data.tags.get("kind") == "trial"}
    assert {run.data.tags["mlflow.parentRunId"] for run in below.values()} == {parent.info.run_id}
    assert {name: run.info.status for name, run in below.items()} == {
        **dict.fromkeys(DONE, "FINISHED"),
        "rank/broken": "FAILED",
    }
    assert below["rank/2"].data.params == {"hypernet.rank": "2"}
    assert "mean/semi/attribute_accuracy" in below["base"].data.metrics
    assert "difference/rank/2/semi" in parent.data.metrics


def test_the_second_call_repeats_nothing_finished_and_says_the_same(folder: Path) -> None:
    run = folder / "smoke"
    before = _times(run)
    table = pq.read_table(run / "ablations" / "results.parquet")
    assert sum(path.name == "weights.safetensors" for path in before) >= len(DONE)
    # In this process: where variants run must not matter to what is kept.
    again = _ablate(folder)
    assert again.returncode == 0, again.stderr
    assert f"{len(DONE)} variants done before, kept" in again.stdout
    assert again.stderr.startswith("warning: variant rank/broken failed: ")
    assert _times(run) == before
    assert pq.read_table(run / "ablations" / "results.parquet").equals(table)

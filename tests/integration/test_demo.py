"""The whole pipeline at test size: in this process, and on Ray with DeepSpeed; killed and resumed; bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("prepare_miniature", "extract_embeddings", "pretrain_projector", "meta_train", "integrate", "evaluate")
ON_RAY = ("--set", "runtime.engine=deepspeed", "--set", "runtime.workers=2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _command(job: str, runs: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", f"jobs.{job}", "--preset", "smoke", "--set", f"runs_dir={runs}", *options]


def _job(job: str, runs: Path, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(_command(job, runs, *options), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def _losses(runs: Path, stage: str) -> list[float]:
    lines = (runs / "smoke" / stage / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == list(range(len(records)))
    return [record["loss"] for record in records]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("local")
    _job("demo", runs)
    return runs


@pytest.fixture(scope="module")
def report(local: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((local / "smoke" / "report.json").read_text())
    return result


@pytest.mark.parametrize("stage", ["pretrain_projector", "meta_train"])
def test_first_losses_are_the_stored_ones(stage: str, local: Path) -> None:
    """`python -m tests.golden.store` writes them; a change of data, models or method changes them, nothing else may."""
    golden = json.loads((ROOT / "tests" / "golden" / "smoke_losses.json").read_text())
    assert _losses(local, stage) == pytest.approx(golden[stage], abs=1e-4)


def test_report_has_every_score_timing_and_origin(report: dict[str, Any]) -> None:
    methods = {"semi", "semi_shuffled_text", "scratch", "finetuned_projector", "ridge", "knn_3", "constant"}
    assert set(report["held_out"]) == {"imu", "digits"}
    for by_method in report["held_out"].values():
        assert methods <= set(by_method)
        for method in methods:
            scores = by_method[method]["shots"]["8"]
            assert 0.0 <= scores["attribute_accuracy"] <= 1.0 and scores["cider_d"] >= 0.0
    assert set(report["timings_s"]) == set(STAGES)
    assert report["peak_rss_bytes"] > 100 * 2**20
    assert report["commit"] and report["config_fingerprint"]


def test_report_can_be_read_and_seen(local: Path) -> None:
    run = local / "smoke"
    assert "SEMI" in (run / "report.md").read_text()
    assert len(list((run / "plots").glob("*.png"))) >= 2
    assert (run / "config.yaml").is_file()


def test_second_run_recomputes_nothing(local: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (local / "smoke").rglob("*") if path.is_file()}
    done = _job("demo", local)
    assert done.stdout.count("done before, kept") == len(STAGES)
    after = {path: path.stat().st_mtime_ns for path in (local / "smoke").rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {"config.yaml"}


def test_changing_a_stage_runs_it_and_those_below_only(local: Path) -> None:
    done = _job("demo", local, "--set", "integrate.finetune.steps=1")
    assert done.stdout.count("done before, kept") == 4


def test_ray_with_two_deepspeed_workers_gives_the_local_losses(local: Path, tmp_path: Path) -> None:
    done = _job("demo", tmp_path, *ON_RAY, "--set", "tracking.enabled=true")
    assert done.stderr == "", "frameworks must be silent"
    for stage in ("pretrain_projector", "meta_train"):
        assert _losses(tmp_path, stage) == pytest.approx(_losses(local, stage), abs=1e-5)
    _check_tracking(tmp_path)


def test_ray_with_one_deepspeed_worker_gives_the_local_losses(local: Path, tmp_path: Path) -> None:
    trained = shutil.ignore_patterns("meta_train", "integrate", "evaluate")
    shutil.copytree(local / "smoke", tmp_path / "smoke", ignore=trained)
    _job("meta_train", tmp_path, "--set", "runtime.engine=deepspeed", "--set", "runtime.workers=1")
    assert _losses(tmp_path, "meta_train") == pytest.approx(_losses(local, "meta_train"), abs=1e-5)


def test_partitioned_llm_and_accumulation_give_the_local_weights(local: Path, tmp_path: Path) -> None:
    """ZeRO-3 over two workers, optimiser in host memory, two parts an update; nothing of the LLM is saved."""
    trained = shutil.ignore_patterns("pretrain_projector", "meta_train", "integrate", "evaluate")
    shutil.copytree(local / "smoke", tmp_path / "smoke", ignore=trained)
    heavy = ("--set", "runtime.zero_stage=3", "--set", "runtime.offload_optimizer=true")
    for stage in ("pretrain_projector", "meta_train"):
        _job(stage, tmp_path, *ON_RAY, *heavy, "--set", "pretrain.micro_batches=2")
        assert _losses(tmp_path, stage) == pytest.approx(_losses(local, stage), abs=1e-4)
        (wanted, got) = (_newest_checkpoint(runs / "smoke" / stage) for runs in (local, tmp_path))
        state, whole = load_file(got), load_file(wanted)
        assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in whole.items()}
        weights = {name: value for name, value in state.items() if name.startswith("weight/")}
        for name, value in weights.items():
            torch.testing.assert_close(value, whole[name], atol=1e-4, rtol=1e-3, msg=name)
        header = 200 * len(state)
        assert got.stat().st_size <= 1.05 * 3 * sum(value.nbytes for value in weights.values()) + header


def _newest_checkpoint(stage: Path) -> Path:
    return max(stage.glob("checkpoints/step-*")) / "state.safetensors"


def _check_tracking(runs: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'semi'")
    found = client.search_runs([experiment.experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1 and {run.info.status for run in found} == {"FINISHED"}
    children = {run.data.tags["mlflow.runName"]: run for run in found if run is not parents[0]}
    assert set(children) == set(STAGES)
    points = client.get_metric_history(children["meta_train"].info.run_id, "loss")
    assert [point.value for point in points] == _losses(runs, "meta_train")
    assert parents[0].data.params["hypernet.kind"] == "equivariant"
    assert "captions.json" in [item.path for item in client.list_artifacts(parents[0].info.run_id)]


def test_killed_training_continues_and_ends_with_the_same_weights(local: Path, tmp_path: Path) -> None:
    """SIGKILL of driver and workers in the middle of meta-training."""
    longer = ("--set", "meta.optim.steps=120")
    for stage in ("prepare_miniature", "extract_embeddings", "pretrain_projector"):
        _job(stage, tmp_path)
    _job("meta_train", tmp_path, *longer)
    weights = tmp_path / "smoke" / "meta_train" / "weights.safetensors"
    expected = weights.read_bytes()
    _job("meta_train", tmp_path, "--set", "meta.optim.steps=2")  # another result, so that there is work to do again
    process = subprocess.Popen(_command("meta_train", tmp_path, *longer), cwd=ROOT, start_new_session=True)
    log = tmp_path / "smoke" / "meta_train" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and _lines(log) < 8 and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, "ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert weights.read_bytes() != expected
    _job("meta_train", tmp_path, *longer)
    assert weights.read_bytes() == expected
    assert len(_losses(tmp_path, "meta_train")) == 120


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


BAD_INPUT = {
    "unknown key": (["--set", "meta.rank=3"], "unknown key 'rank' in meta"),
    "wrong type": (["--set", "hypernet.rank=many"], "hypernet.rank"),
    "more shots than samples": (["--set", "integrate.shots=[5000]"], "5000 shots asked for, but its train split has"),
    "episode larger than a modality": (["--set", "episodes.support_shots=[500]", *ON_RAY], "but episodes need 504"),
    "width of another encoder": (["--set", "projector.input_width=64"], "projector.input_width=64, but the text"),
    "uneven workers": (["--set", "pretrain.batch_size=7", *ON_RAY], "7 items a step cannot be split evenly over 2"),
    "uneven parts": (
        ["--set", "pretrain.batch_size=10", "--set", "pretrain.micro_batches=3"],
        "micro_batches=3 does not divide the 10 items",
    ),
    "engine without it": (["--set", "runtime.zero_stage=3"], "engine='local' serves no zero_stage=3"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(case: str, local: Path) -> None:
    options, message = BAD_INPUT[case]
    done = _job("demo", local, *options, code=2)
    assert message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_missing_dataset_is_named(local: Path, tmp_path: Path) -> None:
    done = _job("pretrain_projector", tmp_path, code=2)
    assert done.stderr.startswith("error: ") and "image" in done.stderr and done.stderr.count("\n") == 1


def test_manifest_of_another_version_is_refused(local: Path, tmp_path: Path) -> None:
    shutil.copytree(local / "smoke" / "embeddings", tmp_path / "smoke" / "embeddings")
    manifest = tmp_path / "smoke" / "embeddings" / "image" / "image-a" / "manifest.json"
    version = json.loads(manifest.read_text())["format_version"]
    manifest.write_text(manifest.read_text().replace(f'"format_version": {version}', '"format_version": 99'))
    done = _job("pretrain_projector", tmp_path, code=2)
    assert done.stderr.startswith("error: ") and "99" in done.stderr and done.stderr.count("\n") == 1


def test_unwritable_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    done = _job("pretrain_projector", tmp_path / "runs", code=2)
    assert "cannot be written" in done.stderr and done.stderr.count("\n") == 1

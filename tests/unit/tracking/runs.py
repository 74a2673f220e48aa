"""Runs for tests: opened as a job opens them, and read back as MLflow keeps them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.config.schema import TrackingConfig
from pipeline.tracking import Tracker, open_tracker
from pipeline.tracking.store import local_uri, quiet_mlflow

COMMIT = "0123456789abcdef0123456789abcdef01234567+dirty"


def open_run(
    runs_dir: Path,
    *,
    name: str = "demo",
    config: TrackingConfig | None = None,
    params: Any = None,
    key: str | None = None,
) -> Tracker:
    return open_tracker(
        config or TrackingConfig(),
        runs_dir,
        name=name,
        params={"seed": 0} if params is None else params,
        commit=COMMIT,
        config_fingerprint="feed",
        source="jobs.demo",
        key=key,
    )


def runs_of(runs_dir: Path) -> dict[str, Any]:
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    experiment = client.get_experiment_by_name("semi")
    if experiment is None:
        return {}
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def history(runs_dir: Path, run: Any, name: str) -> list[tuple[int, float]]:
    client = quiet_mlflow().MlflowClient(tracking_uri=local_uri(runs_dir))
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options)

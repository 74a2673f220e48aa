"""Experiment tracking: the only layer that knows MLflow.

In: the tracking configuration.  Out: a `Tracker`.

    with open_tracker(config.tracking, runs_dir, name=config.name, params=config, tags=..., source="jobs.demo") as run:
        with run.stage("meta_train") as stage:
            stage.log_metrics({"loss": loss}, step)
"""

from __future__ import annotations

import getpass
from pathlib import Path

from pipeline.config.schema import TrackingConfig
from pipeline.tracking.base import NullTracker, RunHandle, Tracker
from pipeline.tracking.mlflow_tracker import MlflowTracker
from pipeline.tracking.store import Store, local_uri

__all__ = ["MlflowTracker", "NullTracker", "RunHandle", "Tracker", "attach", "open_tracker"]


def open_tracker(
    config: TrackingConfig,
    runs_dir: Path,
    *,
    name: str,
    params: object,
    commit: str,
    config_fingerprint: str,
    source: str,
) -> Tracker:
    """The parent run of a pipeline run; nothing is imported or written before its first stage.

    `params` is the resolved configuration, `source` the job's name (`jobs.demo`).  The store is `config.uri`, or SQLite
    in `runs_dir`.
    """
    if not config.enabled:
        return NullTracker()
    tags = {
        "commit": commit,
        "config_fingerprint": config_fingerprint,
        "mlflow.source.name": source,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit.removesuffix("+dirty"),
        "mlflow.user": _user(),
    }
    store = Store(config.uri or local_uri(runs_dir), config.experiment)
    return MlflowTracker(store, name=name, spill_dir=runs_dir, tags=tags, params=params)


def attach(handle: RunHandle | None) -> Tracker:
    """The run of `handle` in another process, to log to; its final state stays with who opened it."""
    if handle is None:
        return NullTracker()
    return MlflowTracker(Store(handle.uri, ""), name=handle.run_id, spill_dir=handle.spill_dir, run_id=handle.run_id)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return "unknown"

"""Experiment tracking: the only layer that knows MLflow.

In: the tracking configuration.  Out: a `Tracker`.

    with open_tracker(config.tracking, runs_dir, name=config.name, params=config, tags=..., source="jobs.demo") as run:
        with run.stage("meta_train") as stage:
            stage.log_metrics({"loss": loss}, step)

A sweep is `open_tracker(..., kind="sweep", key=...)`; a trial, in any process, `attach(handle).child(name, "trial",
params, key=trial_id)`.
"""

from __future__ import annotations

import getpass
import secrets
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.schema import TrackingConfig
from pipeline.tracking.base import Kind, NullTracker, RunHandle, Tracker
from pipeline.tracking.mlflow_tracker import MlflowTracker, RunSpec
from pipeline.tracking.params import flatten, redact
from pipeline.tracking.store import Store, local_uri

SPOOL = "mlflow_spool"
"""Folder, beside the local store, of what a store has not taken yet."""

__all__ = ["Kind", "MlflowTracker", "NullTracker", "RunHandle", "Tracker", "attach", "open_tracker", "source_tags"]


def open_tracker(
    config: TrackingConfig,
    runs_dir: Path,
    *,
    name: str,
    params: object,
    commit: str,
    config_fingerprint: str,
    source: str,
    kind: Kind = "run",
    key: str | None = None,
    extra_tags: Mapping[str, str] | None = None,
) -> Tracker:
    """The parent run of a pipeline run or of a sweep; nothing is imported or written before its first child.

    `params` is the resolved configuration, `source` the job's name (`jobs.demo`).  The store is `config.uri`, or SQLite
    in `runs_dir`.  A later call with the same `key` goes on in the same run (None: a new run).
    """
    if not config.enabled:
        return NullTracker()
    tags = {**source_tags(source, commit), "config_fingerprint": config_fingerprint}
    store = Store(config.uri or local_uri(runs_dir), config.experiment)
    spec = RunSpec(
        name=name,
        kind=kind,
        key=key or secrets.token_hex(8),
        tags=tags | {name: redact(text) for name, text in (extra_tags or {}).items()},
        params=flatten(params),
    )
    return MlflowTracker(store, spec, runs_dir.resolve() / SPOOL)


def attach(handle: RunHandle | None) -> Tracker:
    """The run of `handle` in another process, to log to; its final state stays with who opened it."""
    if handle is None:
        return NullTracker()
    spec = RunSpec(name=handle.name, kind="run", key=handle.key, tags=handle.tags, owned=False)
    return MlflowTracker(Store(handle.uri, handle.experiment), spec, handle.spool_dir)


def source_tags(source: str, commit: str) -> dict[str, str]:
    """Which job, of which code, and whose."""
    return {
        "commit": commit,
        "mlflow.source.name": source,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit.removesuffix("+dirty"),
        "mlflow.user": _user(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return "unknown"

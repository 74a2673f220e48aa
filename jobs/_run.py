"""One pipeline run: configuration, folders, tracking; and how a job runs a stage unless it is done already.

In: parsed arguments.  Out: a `Run` for the length of a `with` block.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs._cli import config_from, console
from pipeline.config.artifacts import StageDir, embeddings_dir, run_dir, write_text_atomic
from pipeline.config.fingerprint import fingerprint
from pipeline.config.load import to_yaml
from pipeline.config.root import project_root
from pipeline.config.schema import ExperimentConfig, Role
from pipeline.evaluation.provenance import Commit, PeakRss, git_commit
from pipeline.runtime.mirror import mirrored
from pipeline.runtime.session import cluster_tags
from pipeline.shards import load_manifest
from pipeline.tracking import Kind, Tracker, open_tracker

CONFIG_FILE = "config.yaml"
TRACKING_FILE = "tracking_id"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every stage needs."""

    config: ExperimentConfig
    """The resolved configuration."""
    root: Path
    """The project's root."""
    directory: Path
    """Folder of the run's outputs."""
    tracker: Tracker
    """The parent run."""
    commit: Commit
    """Of the code that runs."""
    verbose: bool
    """Show what libraries say."""
    peak: PeakRss
    """Memory of this process and all below it."""
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage so far; of a finished one, what it took when it ran."""
    peaks: list[int] = field(default_factory=list)
    """Peak memory of earlier processes that ran stages of this run, in bytes."""

    def peak_rss_bytes(self) -> int:
        """Largest peak over all stages so far."""
        return max([self.peak.bytes, *self.peaks])


@contextmanager
def open_run(
    args: argparse.Namespace,
    job: str,
    *,
    kind: Kind = "run",
    key: str | None = None,
    folder: str = "",
    mirror: bool = True,
) -> Iterator[Run]:
    """Resolve the configuration, check that its output folder can be written, open the tracking run.

    Jobs of one folder and `key` write to one tracking run; None: of one configuration. A job with outputs in a `folder`
    of its own below a run leaves the configuration there: the run keeps the one that it was trained with. `mirror`:
    False where the caller reads the folder before, and mirrors it itself.
    """
    config, root = config_from(args), project_root()
    directory = run_dir(config, root)
    with mirrored(directory, config.runtime.mirror if mirror else None):
        StageDir(directory).begin()
        (directory / folder).mkdir(exist_ok=True)
        write_text_atomic(directory / folder / CONFIG_FILE, to_yaml(config))
        commit = git_commit(root)
        tracker = open_tracker(
            config.tracking,
            root / config.runs_dir,
            name=config.name,
            params=config,
            commit=str(commit),
            config_fingerprint=fingerprint(config),
            source=f"jobs.{job}",
            kind=kind,
            key=f"{_tracking_id(directory)}-{key or fingerprint(config)}" if config.tracking.enabled else None,
            extra_tags=cluster_tags(),
        )
        with tracker, PeakRss() as peak:
            yield Run(
                config=config,
                root=root,
                directory=directory,
                tracker=tracker,
                commit=commit,
                verbose=args.verbose,
                peak=peak,
            )


def _tracking_id(directory: Path) -> str:
    """Names the folder in MLflow: jobs of one folder and configuration write to one run, whichever process they are."""
    path = directory / TRACKING_FILE
    if not path.exists():
        write_text_atomic(path, secrets.token_hex(8) + "\n")
    return path.read_text(encoding="utf-8").strip()


def tracking_id_of(path: Path) -> str | None:
    """Of the run that `path` lies in, or that left its id there; None where there is none."""
    folders = [path.resolve(), *path.resolve().parents]
    return next((_tracking_id(folder) for folder in folders if (folder / TRACKING_FILE).is_file()), None)


Work = Callable[[Tracker], dict[str, Any]]
"""Does a stage's work, logging to its child run; returns what its record says besides the seconds."""


def run_stage(run: Run, name: str, identity: str, work: Work, *, directory: Path | None = None) -> None:
    """Run a stage unless its folder holds the finished output of exactly this work."""
    stage = StageDir(directory or run.directory / name)
    if stage.is_complete(identity):
        record = stage.info()
        run.timings_s[name] = float(record["seconds"])
        run.peaks.append(int(record["peak_rss_bytes"]))
        console.print(f"{name:<22} [dim]done before, kept[/dim]")
        return
    stage.begin()
    began = time.perf_counter()
    # By its identity: an attempt that was stopped is continued in MLflow too.
    with run.tracker.stage(name, key=f"{name}-{identity}") as tracked:
        try:
            info = work(tracked)
        finally:
            tracked.set_tags(cluster_tags())
        seconds = time.perf_counter() - began
        tracked.log_metrics({"stage_seconds": seconds})
    stage.commit(identity, {**info, "seconds": seconds, "peak_rss_bytes": run.peak_rss_bytes()})
    run.timings_s[name] = seconds


def log_datasets(run: Run, tracked: Tracker, context: str, *roles: Role) -> None:
    """Say what a stage has read: each dataset of these roles, by the key of its content."""
    for role in roles:
        for dataset in run.config.datasets_of(role):
            for encoder in dataset.encoders:
                directory = embeddings_dir(run.directory, dataset, encoder)
                manifest = load_manifest(directory)
                tracked.log_dataset(
                    f"{dataset.name}/{encoder.name}",
                    digest=manifest.content_key,
                    source=str(directory),
                    context=context,
                    profile={"rows": manifest.rows, **manifest.splits, "width": manifest.width},
                )

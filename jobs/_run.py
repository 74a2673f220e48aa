"""One pipeline run: configuration, folders, tracking; and how a job runs a stage unless it is done already.

In: parsed arguments.  Out: a `Run` for the length of a `with` block.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs._cli import config_from, console
from pipeline.config.artifacts import StageDir, run_dir, write_text_atomic
from pipeline.config.fingerprint import fingerprint
from pipeline.config.load import to_yaml
from pipeline.config.root import project_root
from pipeline.config.schema import ExperimentConfig
from pipeline.evaluation.provenance import Commit, PeakRss, git_commit
from pipeline.tracking import Tracker, open_tracker

CONFIG_FILE = "config.yaml"


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
def open_run(args: argparse.Namespace, job: str) -> Iterator[Run]:
    """Resolve the configuration, check that its output folder can be written, open the tracking run."""
    config, root = config_from(args), project_root()
    directory = run_dir(config, root)
    StageDir(directory).begin()
    write_text_atomic(directory / CONFIG_FILE, to_yaml(config))
    commit = git_commit(root)
    tracker = open_tracker(
        config.tracking,
        root / config.runs_dir,
        name=config.name,
        params=config,
        commit=str(commit),
        config_fingerprint=fingerprint(config),
        source=f"jobs.{job}",
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
    with run.tracker.stage(name) as tracked:
        info = work(tracked)
        seconds = time.perf_counter() - began
        tracked.log_metrics({"stage_seconds": seconds})
    stage.commit(identity, {**info, "seconds": seconds, "peak_rss_bytes": run.peak_rss_bytes()})
    run.timings_s[name] = seconds

"""Search a space of settings with Ray Tune, by few-shot scores on validation modalities.

In: a file of `tune_spaces/` and a configuration.  Out: `<run>/tune/`: a folder and a record a trial, `trials.parquet`,
`best.yaml` for `jobs.meta_train --config`, plots; in MLflow a run for the sweep and one a trial.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from jobs import extract_embeddings, prepare_miniature
from jobs._cli import Advance, console, job_parser, run_job, stage_progress
from jobs._run import Run, open_run
from jobs._sweep_report import best_of, write_best, write_plots
from jobs._training import run_training
from pipeline.config.artifacts import write_text_atomic
from pipeline.config.fingerprint import fingerprint
from pipeline.config.load import to_tree
from pipeline.config.schema import ExperimentConfig
from pipeline.config.space import SearchSpace, load_space
from pipeline.runtime.session import ray_session
from pipeline.runtime.tune_records import TABLE, TrialRecord, TrialRecords
from pipeline.runtime.tune_trial import pretrained_dir, pretrainings, rung_dir, sweep_config
from pipeline.tracking import Tracker
from pipeline.training.metrics_log import METRICS, MetricsLog

FOLDER, SWEEP_FILE, BEST = "tune", "sweep.json", "best.yaml"


def run(run: Run, space: SearchSpace, *, resume: bool) -> None:
    """Check everything, make what trials share, run the trials that have no result yet, report."""
    directory = run.directory / FOLDER
    shared = replace(run, config=sweep_config(run.config, space))
    sweep_id = _claim(directory, shared.config, space, resume=resume)
    with ray_session(run.config.runtime, root=run.root, verbose=run.verbose) as session:
        # Not earlier: Ray reads the session's environment when it is imported.
        from pipeline.runtime.ray_tune import Sweep, budget, run_sweep

        sweep = Sweep(config=shared.config, space=space, root=run.root, directory=directory)
        plan = budget(sweep, session)
        console.print(plan.reason, soft_wrap=True, markup=False)
        if run.config.miniature is not None:
            prepare_miniature.run(run)
        extract_embeddings.run(run)
        _pretrain(shared, space, directory)
        records = TrialRecords(directory / "trials", space)
        kept = len([record for record in records.all() if record.state != "running"])
        if kept:
            console.print(f"{kept} trials done before, kept")
        with (
            stage_progress("trials", total=space.trials() - kept, unit="trials") as advance,
            _watching(run.tracker, records, sweep_id, advance) as (on_begin, on_report, on_end),
        ):
            run_sweep(sweep, records, concurrent=plan.concurrent, on_begin=on_begin, on_report=on_report, on_end=on_end)
    _report(run, space, records, directory)


def _claim(directory: Path, config: ExperimentConfig, space: SearchSpace, *, resume: bool) -> str:
    """This folder's sweep; returns its id. Another sweep's trials are never mixed with this one's."""
    tree = {name: value for name, value in to_tree(config).items() if name not in ("runtime", "tracking")}
    identity = fingerprint((tree, replace(space, samples=1, concurrent=None, workers=1)))
    path = directory / SWEEP_FILE
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))["identity"]
        if known != identity:
            raise ValueError(f"{directory} holds a sweep of another space or configuration: choose another --name")
        if not resume:
            raise ValueError(f"{directory} holds this sweep already: go on with --resume, or choose another --name")
    elif resume:
        raise ValueError(f"{directory} holds no sweep to resume: leave --resume out, or correct --name")
    else:
        directory.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps({"identity": identity}) + "\n")
    return fingerprint((str(directory), identity))


def _pretrain(run: Run, space: SearchSpace, directory: Path) -> None:
    """The projectors that trials share; trials over a range of its settings train their own."""
    for identity, config in pretrainings(run.config, space, run.directory).items():
        folder = pretrained_dir(directory, identity)
        config = replace(config, runtime=replace(config.runtime, workers=run.config.runtime.workers))
        run_training(replace(run, config=config, directory=folder), "pretrain_projector", identity)


@contextmanager
def _watching(tracker: Tracker, records: TrialRecords, sweep_id: str, advance: Advance) -> Iterator[tuple]:  # type: ignore[type-arg]
    """What is told of trials: a child run each, and the progress line."""
    with ExitStack() as abandoned:
        open_runs: dict[int, tuple[Tracker, ExitStack]] = {}

        def on_begin(record: TrialRecord) -> None:
            stack = abandoned.enter_context(ExitStack())
            key = f"{sweep_id}-{record.number:04d}"
            open_runs[record.number] = (
                stack.enter_context(tracker.child(record.name, "trial", record.values, key=key)),
                stack,
            )

        def on_report(record: TrialRecord) -> None:
            child, result = open_runs[record.number][0], record.results[-1]
            steps = int(result["steps"])
            child.log_metrics({name: value for name, value in result.items() if name != "steps"}, step=steps)
            log = MetricsLog(rung_dir(records.folder(record), steps) / "meta_train" / METRICS)
            for entry in log.read():
                child.log_metrics({"loss": entry["loss"]}, step=entry["step"])

        def on_end(record: TrialRecord) -> None:
            child, stack = open_runs.pop(record.number)
            child.set_tags({"trial.state": record.state, **({"error": record.error} if record.error else {})})
            failure = _TrialFailedError(record.error) if record.state == "failed" else None
            stack.__exit__(type(failure) if failure else None, failure, None)
            note = f"score {record.score:.3f}" if record.score is not None else record.state
            advance(1, note=f"{record.name}: {note}")

        yield on_begin, on_report, on_end


class _TrialFailedError(Exception):
    """Ends a trial's MLflow run as FAILED."""


def _report(run: Run, space: SearchSpace, records: TrialRecords, directory: Path) -> None:
    trials = records.all()
    records.write_table(directory / TABLE)
    for record in trials:
        if record.state == "failed":
            print(f"warning: trial {record.name} failed: {record.error}", file=sys.stderr)
    best = best_of(trials)
    if best is None:
        raise ValueError(f"no trial finished; the first one: {trials[0].error}")
    write_best(directory / BEST, run.config, best, space.metric)
    plots = write_plots(directory / "plots", trials, space)
    for path in (directory / TABLE, directory / BEST, *plots):
        run.tracker.log_artifact(path)
    run.tracker.log_metrics({"best_score": best.score or 0.0})
    run.tracker.describe(f"Best trial: **{best.name}**, {space.metric} {best.score:.4f} on the validation modalities.")
    states = [record.state for record in trials]
    console.print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    console.print(
        f"best: {best.name}, {space.metric} {best.score:.4f}: {directory / BEST}", soft_wrap=True, markup=False
    )


def _arguments() -> argparse.Namespace:
    parser = job_parser(__doc__)
    parser.add_argument("--space", type=Path, required=True, metavar="FILE", help="search space, see tune_spaces/")
    parser.add_argument("--resume", action="store_true", help="go on with the sweep of this name, keeping its trials")
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = _arguments()
    with open_run(args, "tune") as opened:
        run(opened, load_space(args.space, opened.config), resume=args.resume)


if __name__ == "__main__":
    run_job(main)

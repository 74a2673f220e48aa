"""Search a space of settings with Ray Tune, by few-shot scores on validation modalities.

In: a file of `tune_spaces/` and a configuration.  Out: `<run>/tune/`: a folder and a record a trial, `trials.parquet`,
`best.yaml` for `jobs.meta_train --config`, plots; in MLflow a run for the sweep and one a trial.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from jobs import extract_embeddings, prepare_miniature
from jobs._cli import config_from, console, job_parser, run_job, stage_progress
from jobs._run import Run, open_run
from jobs._sweep_report import best_of, write_best, write_plots
from jobs._sweep_tracking import SweepTracking, shown
from jobs._training import run_training
from pipeline.config.artifacts import run_dir, write_text_atomic
from pipeline.config.fingerprint import fingerprint
from pipeline.config.load import to_tree
from pipeline.config.root import project_root
from pipeline.config.schema import ExperimentConfig
from pipeline.config.space import SearchSpace, load_space
from pipeline.runtime.linked_run import pretrained_dir
from pipeline.runtime.mirror import mirrored
from pipeline.runtime.session import ray_session
from pipeline.runtime.tune_records import TABLE, TrialRecords
from pipeline.runtime.tune_trial import pretrainings, sweep_config

Resume = Literal["must", "auto"]
FOLDER, SWEEP_FILE, BEST = "tune", "sweep.json", "best.yaml"


def sweep_identity(config: ExperimentConfig, space: SearchSpace) -> str:
    """What trials of one sweep have in common; how many there are and where they run may change from call to call."""
    tree = {name: value for name, value in to_tree(config).items() if name not in ("runtime", "tracking")}
    return fingerprint((tree, replace(space, samples=1, concurrent=None, workers=1)))


def check_folder(directory: Path, identity: str, *, resume: Resume | None) -> None:
    """Another sweep's trials are never mixed with this one's, and a sweep is continued only when that is asked for."""
    path = directory / SWEEP_FILE
    if not path.exists():
        if resume == "must":
            raise ValueError(f"{directory} holds no sweep to resume: leave --resume out, or correct --name")
        return
    if json.loads(path.read_text(encoding="utf-8"))["identity"] != identity:
        raise ValueError(f"{directory} holds a sweep of another space or configuration: choose another --name")
    if not resume:
        raise ValueError(f"{directory} holds this sweep already: go on with --resume, or choose another --name")


def _prepare(run: Run, config: ExperimentConfig, space: SearchSpace, directory: Path) -> None:
    """What trials share: embeddings and projectors; trials over a range of the projector's settings train their own."""
    if config.miniature is not None:
        prepare_miniature.run(run)
    extract_embeddings.run(run)
    # Before there are trials: its workers have the whole cluster.
    for identity, trial in pretrainings(config, space, run.directory).items():
        shared = replace(
            run, config=replace(trial, runtime=run.config.runtime), directory=pretrained_dir(directory, identity)
        )
        run_training(shared, "pretrain_projector", identity)


def _report(run: Run, space: SearchSpace, records: TrialRecords, directory: Path) -> None:
    trials = records.all()
    records.write_table(directory / TABLE)
    for record in trials:
        if record.state == "failed":
            print(f"warning: trial {record.name} failed: {record.error}", file=sys.stderr)
    best = best_of(trials)
    if best is None:
        raise ValueError(f"no trial finished; the first one: {trials[0].error}")
    write_best(directory / BEST, run.config, space, best)
    plots = write_plots(directory / "plots", trials, space)
    for path in (directory / TABLE, directory / BEST, *plots):
        run.tracker.log_artifact(path)
    run.tracker.log_metrics({"best_score": shown(best.score or 0.0)})
    metrics = ("score", "loss", *([space.against] if space.against else []))
    page = run.tracker.log_view(f"Trials of {run.config.name}", "trial", params=list(space.space), metrics=metrics)
    text = f"Best trial: **{best.name}**, {space.metric} {best.score:.4f} on the validation modalities."
    run.tracker.describe(f"{text} [Compare the trials]({page}&compareRunsMode=CHART), or [as a table]({page}).")
    states = [record.state for record in trials]
    console.print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    text = f"best: {best.name}, {space.metric} {best.score:.4f}: {directory / BEST}"
    console.print(text, soft_wrap=True, markup=False)


def _arguments() -> argparse.Namespace:
    parser = job_parser(__doc__)
    parser.add_argument("--space", type=Path, required=True, metavar="FILE", help="search space, see tune_spaces/")
    parser.add_argument(
        "--resume",
        nargs="?",
        choices=get_args(Resume),
        const="must",
        help="go on with the sweep of this name, keeping its trials; auto: or begin it where there is none",
    )
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: try failed trials again too")
    args = parser.parse_args()
    if args.retry_failed and not args.resume:
        raise ValueError("--retry-failed tries failed trials of an earlier call again: give --resume with it")
    return args


def main() -> None:
    """Check everything, make what trials share, run the trials that have no result yet, report."""
    args = _arguments()
    config, root = config_from(args), project_root()
    space = load_space(args.space, config)
    trials_config = sweep_config(config, space)
    directory, identity = run_dir(config, root) / FOLDER, sweep_identity(trials_config, space)
    with mirrored(directory.parent, config.runtime.mirror):
        check_folder(directory, identity, resume=args.resume)
        with ray_session(config.runtime, root=root, verbose=args.verbose):
            _sweep(args, trials_config, space, directory, identity)


def _sweep(
    args: argparse.Namespace, config: ExperimentConfig, space: SearchSpace, directory: Path, identity: str
) -> None:
    # Not earlier: Ray reads the session's environment when it is imported.
    from pipeline.runtime.ray_tune import Sweep, budget, run_sweep

    sweep = Sweep(config=config, space=space, root=project_root(), directory=directory)
    plan = budget(sweep)
    console.print(plan.reason, soft_wrap=True, markup=False)
    with open_run(args, "tune", kind="sweep", key=identity, mirror=False) as run:
        directory.mkdir(parents=True, exist_ok=True)
        write_text_atomic(directory / SWEEP_FILE, json.dumps({"identity": identity}) + "\n")
        _prepare(run, config, space, directory)
        records = TrialRecords(directory / "trials", space)
        if args.retry_failed and (again := records.retry_failed()):
            console.print(f"{len(again)} failed trials are tried again")
        kept = len(records.all()) - len(records.unfinished())
        if kept:
            console.print(f"{kept} trials done before, kept")
        with (
            stage_progress("trials", total=space.trials() - kept, unit="trials") as advance,
            SweepTracking(run.tracker, records, advance, space.rungs) as watch,
        ):
            run_sweep(sweep, records, watch, concurrent=plan.concurrent)
        _report(run, space, records, directory)


if __name__ == "__main__":
    run_job(main)

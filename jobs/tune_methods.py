"""Search the settings of every tunable method by the same number of trials, on validation modalities.

In: trained stages of a run whose `validation` names modalities that they did not read.
Out: `<run>/tune_methods/{trials.parquet,best.yaml}`; `--config best.yaml --preset NAME` takes the winners. A trial that
fails, by divergence or otherwise, is a row without a score and with its reason.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from jobs._cli import job_parser, run_job, stage_progress
from jobs._run import Run, open_run, run_stage
from pipeline.adaptation.tuning import SPACE, TUNED, Outcome, Trial, best_trial, require_validation, trials
from pipeline.config.artifacts import write_text_atomic
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import ExperimentConfig, MethodName
from pipeline.runtime.fanout import fan_out
from pipeline.runtime.identities import identities
from pipeline.tracking import Tracker


def run(run: Run, *, count: int, shots: int, draws: int) -> None:
    """Run the trials that are not done, and write the table and the winners."""
    require_validation(run.config)
    config = replace(
        run.config,
        integrate=replace(run.config.integrate, shots=(shots,), draws=draws),
        evaluate=replace(run.config.evaluate, on="validation"),
    )
    todo = [trial for method in TUNED for trial in trials(method, count, config.seed)]
    upstream = identities(config, run.directory).evaluate
    identity = fingerprint((upstream, count, [dict(trial.overrides) for trial in todo]))

    def work(tracked: Tracker) -> dict[str, Any]:
        outcomes = _search(run, config, todo, upstream)
        best = write_results(run.directory / "tune_methods", todo, outcomes)
        tracked.log_metrics({f"best/{method}": score for method, (_, score) in best.items()})
        return {"trials": len(outcomes)}

    run_stage(run, "tune_methods", identity, work)


Key = tuple[MethodName, int]
"""A method and the number of one of its trials."""


def _search(run: Run, config: ExperimentConfig, todo: Sequence[Trial], upstream: str) -> dict[Key, Outcome]:
    from pipeline.runtime.trials import TrialTask, run_trial

    tasks = [
        TrialTask(config=config, root=run.root, run_dir=run.directory, identity=upstream, trial=trial) for trial in todo
    ]
    outcomes: dict[Key, Outcome] = {}
    with stage_progress("tune methods", total=len(tasks), unit="trials") as advance:

        def on_done(task: TrialTask, outcome: Outcome) -> None:
            outcomes[task.trial.method, task.trial.number] = outcome
            if outcome.score is None:
                print(f"warning: {task.trial.method}, trial {task.trial.number}: {outcome.error}", file=sys.stderr)
            advance(note=f"{task.trial.method} {'lost' if outcome.score is None else f'{outcome.score:.3f}'}")

        fan_out(run_trial, tasks, runtime=config.runtime, root=run.root, on_done=on_done, verbose=run.verbose)
    return outcomes


def write_results(
    folder: Path, todo: Sequence[Trial], outcomes: Mapping[Key, Outcome]
) -> dict[MethodName, tuple[Trial, float]]:
    """Write the table of all trials and the winners' settings; return the winners and their scores.

    A method that lost every trial has no winner: its settings stay the preset's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = [(trial, outcomes[trial.method, trial.number]) for trial in todo]
    rows = [
        {"method": trial.method, "trial": trial.number, "score": outcome.score, "error": outcome.error}
        | dict(zip(SPACE, trial.overrides.values(), strict=True))
        for trial, outcome in done
    ]
    table = pa.Table.from_pylist(rows)
    for name, kind in (("score", pa.float64()), ("error", pa.string())):  # also where every cell is empty
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(place).cast(kind))
    pq.write_table(table, folder / "trials.parquet")
    (folder / "best.yaml").unlink(missing_ok=True)  # of an earlier search
    best: dict[MethodName, tuple[Trial, float]] = {}
    tree: dict[str, Any] = {}
    for method in dict.fromkeys(trial.method for trial in todo):
        winner = best_trial([entry for entry in done if entry[0].method == method])
        if winner is None:
            continue
        best[method] = winner, outcomes[method, winner.number].score or 0.0
        for path, value in winner.overrides.items():
            *sections, leaf = path.split(".")
            reduce(lambda inner, key: inner.setdefault(key, {}), sections, tree)[leaf] = value
    if not best:
        raise ValueError(f"every trial was lost; the first one: {done[0][1].error}")
    write_text_atomic(folder / "best.yaml", yaml.safe_dump(tree, sort_keys=False))
    return best


def main() -> None:
    """Entry point."""
    parser = job_parser(__doc__)
    parser.add_argument("--trials", type=int, default=16, help="trials of each method (default: 16)")
    parser.add_argument("--shots", type=int, default=32, help="pairs of a support (default: 32)")
    parser.add_argument("--draws", type=int, default=2, help="support draws a trial (default: 2)")
    args = parser.parse_args()
    for name in ("trials", "shots", "draws"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be 1 or more, got {getattr(args, name)}")
    with open_run(args, "tune_methods") as opened:
        run(opened, count=args.trials, shots=args.shots, draws=args.draws)


if __name__ == "__main__":
    run_job(main)

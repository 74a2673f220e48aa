"""What the two training jobs share: their options, a stage with a progress line, and its curves in MLflow."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any, Literal

from jobs._cli import TERMINATED, job_parser, stage_progress
from jobs._run import Run, log_datasets, run_stage
from pipeline.tracking import Tracker
from pipeline.training.identity import StageName, stage_optim
from pipeline.training.metrics_log import Record
from pipeline.training.requirements import check_training
from pipeline.training.stop import TrainingStopped

Resume = Literal["auto", "never"]
_CURVES = ("loss", "learning_rate", "gradient_norm", "queries_per_s")


def training_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of a training job."""
    parser = job_parser(description)
    parser.add_argument(
        "--resume",
        choices=["auto", "never"],
        default="auto",
        help="auto: keep a finished result, or continue from the newest checkpoint; never: forget both, train anew",
    )
    return parser


def run_training(run: Run, stage: StageName, identity: str, *, resume: Resume = "auto") -> None:
    """Train a stage unless its weights exist for this configuration; a stopped one ends the process with code 143."""
    steps = stage_optim(stage, run.config).steps
    if resume == "never":
        shutil.rmtree(run.directory / stage, ignore_errors=True)

    def work(tracked: Tracker) -> dict[str, Any]:
        # Not above: torch and transformers take seconds, and a finished stage needs neither.
        from pipeline.runtime.ray_train import StageJob, train_stage
        from pipeline.training.stages import WEIGHTS

        check_training(stage, run.config, run.directory)
        log_datasets(run, tracked, "training", "train", "text")
        last: Record = {}
        job = StageJob(stage=stage, config=run.config, root=run.root, run_dir=run.directory, fingerprint=identity)
        try:
            with stage_progress(stage, total=steps, unit="steps") as advance:

                def on_record(record: Record) -> None:
                    # After a resume the first record is not step 0: the line jumps there. It comes after the start
                    # of the workers, a minute on a cluster, so it does not tell how long a step takes.
                    steps_more = record["step"] - last.get("step", -1)
                    advance(steps_more, note=f"loss {record['loss']:.3f}", unpaced=not last)
                    last.update(record)
                    _log_curves(tracked, record)

                train_stage(job, on_record=on_record, on_warning=_warn, verbose=run.verbose)
        except TrainingStopped as stopped:
            # Here, so that the stage's own record in MLflow says the same as its parent's.
            _say(f"terminated: {stage} {stopped}")
            sys.exit(TERMINATED)
        tracked.log_model(
            stage,
            run.directory / stage / WEIGHTS,
            kind="safetensors",
            params={"fingerprint": identity, "steps": steps, "llm": run.config.llm.path},
        )
        return {"loss": last.get("loss"), "steps": steps}

    run_stage(run, stage, identity, work)


def _log_curves(tracked: Tracker, record: Record) -> None:
    tracked.log_metrics({name: record[name] for name in _CURVES}, step=record["step"])


def _warn(text: str) -> None:
    _say(f"warning: {text}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

"""What the two training jobs share: a stage with a progress line and its curves in MLflow."""

from __future__ import annotations

from typing import Any

from jobs._cli import stage_progress
from jobs._run import Run, run_stage
from pipeline.tracking import Tracker
from pipeline.training.identity import StageName, stage_optim
from pipeline.training.metrics_log import Record

_CURVES = ("loss", "learning_rate", "gradient_norm", "queries_per_s")


def run_training(run: Run, stage: StageName, identity: str) -> None:
    """Train a stage unless its weights exist for this configuration."""
    steps = stage_optim(stage, run.config).steps

    def work(tracked: Tracker) -> dict[str, Any]:
        # Not above: torch and transformers take seconds, and a finished stage needs neither.
        from pipeline.runtime.ray_train import StageJob, train_stage

        with stage_progress(stage, total=steps, unit="steps") as advance:
            last: Record = {}

            def on_record(record: Record) -> None:
                # After a resume the first record is not step 0: the line jumps there.
                advance(record["step"] - last.get("step", -1), note=f"loss {record['loss']:.3f}")
                last.update(record)
                tracked.log_metrics({name: record[name] for name in _CURVES}, step=record["step"])

            job = StageJob(stage=stage, config=run.config, root=run.root, run_dir=run.directory, fingerprint=identity)
            train_stage(job, on_record=on_record, verbose=run.verbose)
        return {"loss": last.get("loss"), "steps": steps}

    run_stage(run, stage, identity, work)

"""Ablations: variants of the configuration, each trained anew and compared with its reference on the same test rows.

In: `ablate.factors` of a configuration (preset `ablations`); embeddings and projector of the run, made where missing.
Out: `<run>/ablations/`: a folder a variant, `results.parquet`, `ablations.md`, plots; in MLflow a run a variant.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace

from jobs import extract_embeddings, prepare_miniature
from jobs._ablation_report import Outcome, mean_scores, write_ablations
from jobs._cli import TERMINATED, config_from, console, job_parser, run_job, stage_progress
from jobs._run import Run, open_run
from jobs._training import run_training
from pipeline.config.variants import Factor, Variant, all_variants, resolve_factors
from pipeline.runtime.ablation import FOLDER, VariantJob, run_variant, variant_job
from pipeline.runtime.fanout import fan_out
from pipeline.runtime.session import ray_session
from pipeline.tracking import Tracker
from pipeline.training.metrics_log import METRICS, MetricsLog
from pipeline.training.stop import TrainingStopped


class VariantFailedError(Exception):
    """Ends a variant's MLflow run as FAILED."""


def run(run: Run, factors: tuple[Factor, ...]) -> None:
    """Make what variants share, run those that have no result yet, report all of them."""
    variants = all_variants(factors)
    with ExitStack() as stack:
        if run.config.runtime.engine != "local" and not _finished(run, variants):
            stack.enter_context(ray_session(run.config.runtime, root=run.root, verbose=run.verbose))
        if run.config.miniature is not None:
            prepare_miniature.run(run)
        extract_embeddings.run(run)
        jobs = [variant_job(variant, run.config, run.root, run.directory) for variant in variants]
        _pretrain(run, jobs)
        errors = _run_variants(run, jobs)
    outcomes = {job.variant.key: Outcome(job=job, error=errors.get(job.variant.key)) for job in jobs}
    for key, error in errors.items():
        print(f"warning: variant {key} failed: {error}", file=sys.stderr)
    if len(errors) == len(jobs):
        raise ValueError(f"no variant finished; the first one: {errors[jobs[0].variant.key]}")
    page = write_ablations(run, factors, outcomes)
    console.print(f"report: {page}", soft_wrap=True)


def _finished(run: Run, variants: Sequence[Variant]) -> bool:
    try:
        return all(variant_job(variant, run.config, run.root, run.directory).is_done() for variant in variants)
    except ValueError:  # there are no embeddings yet, so nothing behind them
        return False


def _pretrain(run: Run, jobs: Sequence[VariantJob]) -> None:
    """The run's own projector, and those of variants that cannot share it, once each and with all workers."""
    for directory, job in {job.pretrained: job for job in jobs if not job.is_done()}.items():
        config = replace(job.variant.config, runtime=run.config.runtime)
        shared = replace(run, config=config, directory=directory)
        run_training(shared, "pretrain_projector", job.wanted.pretrain_projector)


def _run_variants(run: Run, jobs: Sequence[VariantJob]) -> dict[str, str]:
    """Run what is not done; returns why variants failed."""
    todo = [job for job in jobs if not job.is_done()]
    if kept := len(jobs) - len(todo):
        console.print(f"{kept} variants done before, kept")
    errors: dict[str, str] = {}
    if not todo:
        return errors
    with stage_progress("ablate", total=len(todo), unit="variants") as advance:

        def on_done(job: VariantJob, _: float) -> None:
            _log_variant(run.tracker, job)
            advance(note=job.variant.key)

        def on_failed(job: VariantJob, error: Exception) -> None:
            if isinstance(error, TrainingStopped):
                print(f"terminated: {job.variant.key} {error}", file=sys.stderr, flush=True)
                sys.exit(TERMINATED)
            errors[job.variant.key] = text = " ".join(str(error).split()) or type(error).__name__
            with suppress(VariantFailedError), _child(run.tracker, job):
                raise VariantFailedError(text)
            advance(note=f"{job.variant.key} failed")

        fan_out(
            run_variant,
            todo,
            runtime=run.config.runtime,
            root=run.root,
            on_done=on_done,
            on_failed=on_failed,
            verbose=run.verbose,
        )
    return errors


def _child(tracker: Tracker, job: VariantJob) -> AbstractContextManager[Tracker]:
    variant = job.variant
    return tracker.child(variant.key, "trial", variant.changes, key=f"{variant.key}-{job.wanted.evaluate}")


def _log_variant(tracker: Tracker, job: VariantJob) -> None:
    with _child(tracker, job) as child:
        for record in MetricsLog(job.folder / "meta_train" / METRICS).read():
            child.log_metrics({"loss": record["loss"]}, step=record["step"])
        child.log_metrics({**mean_scores(job.results()), "seconds": job.seconds()})


def main() -> None:
    """Entry point."""
    args = job_parser(__doc__).parse_args()
    factors = resolve_factors(config_from(args))
    with open_run(args, "ablate", kind="sweep", folder=FOLDER) as opened:
        run(opened, factors)


if __name__ == "__main__":
    run_job(main)

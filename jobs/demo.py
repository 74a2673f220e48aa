"""The whole pipeline, one stage after the other: raw signals to a report.

In: a preset or configuration.  Out: everything below `<runs_dir>/<name>`; a second call finds every stage done.
"""

from __future__ import annotations

from contextlib import ExitStack

from jobs import evaluate, extract_embeddings, integrate, meta_train, prepare_miniature, pretrain_projector
from jobs._cli import console, job_parser, run_job
from jobs._run import Run, open_run
from pipeline.config.artifacts import StageDir
from pipeline.runtime.identities import identities
from pipeline.runtime.session import ray_session


def run(run: Run) -> None:
    """Run what is not done yet, all on one Ray session."""
    with ExitStack() as stack:
        if run.config.runtime.engine != "local" and not _finished(run):
            stack.enter_context(ray_session(run.config.runtime, root=run.root, verbose=run.verbose))
        if run.config.miniature is not None:
            prepare_miniature.run(run)
        extract_embeddings.run(run)
        pretrain_projector.run(run)
        meta_train.run(run)
        integrate.run(run)
        evaluate.run(run)


def _finished(run: Run) -> bool:
    try:
        wanted = identities(run.config, run.directory).evaluate
    except ValueError:  # there are no embeddings yet, so nothing behind them
        return False
    return StageDir(run.directory / "evaluate").is_complete(wanted)


def main() -> None:
    """Entry point."""
    with open_run(job_parser(__doc__).parse_args(), "demo") as opened:
        run(opened)
    console.print(f"all stages: {sum(opened.timings_s.values()):.0f} s")


if __name__ == "__main__":
    run_job(main)

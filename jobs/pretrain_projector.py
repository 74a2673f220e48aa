"""Pre-train the shared projector on the high-resource modalities and on text (METHOD section 2.1).

In: the run's embeddings.  Out: `<run>/pretrain_projector/weights.safetensors`, checkpoints, the loss curve.
"""

from __future__ import annotations

from jobs._cli import run_job
from jobs._run import Run, open_run
from jobs._training import Resume, run_training, training_parser
from pipeline.runtime.identities import identities


def run(run: Run, *, resume: Resume = "auto") -> None:
    """Train, or find it done."""
    run_training(run, "pretrain_projector", identities(run.config, run.directory).pretrain_projector, resume=resume)


def main() -> None:
    """Entry point."""
    args = training_parser(__doc__).parse_args()
    with open_run(args, "pretrain_projector") as opened:
        run(opened, resume=args.resume)


if __name__ == "__main__":
    run_job(main)

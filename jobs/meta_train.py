"""Meta-train the hypernetwork over episodes of synthetic modalities (METHOD section 2.2).

In: the embeddings and the pre-trained projector.  Out: `<run>/meta_train/weights.safetensors`, checkpoints, the curve.
"""

from __future__ import annotations

from jobs._cli import run_job
from jobs._run import Run, open_run
from jobs._training import Resume, run_training, training_parser
from pipeline.runtime.identities import identities


def run(run: Run, *, resume: Resume = "auto") -> None:
    """Train, or find it done."""
    run_training(run, "meta_train", identities(run.config, run.directory).meta_train, resume=resume)


def main() -> None:
    """Entry point."""
    args = training_parser(__doc__).parse_args()
    with open_run(args, "meta_train") as opened:
        run(opened, resume=args.resume)


if __name__ == "__main__":
    run_job(main)

"""Meta-train the hypernetwork over episodes of synthetic modalities (METHOD section 2.2).

In: the embeddings and the pre-trained projector.  Out: `<run>/meta_train/weights.safetensors`, checkpoints, the curve.
"""

from __future__ import annotations

from jobs._cli import job_parser, run_job
from jobs._run import Run, open_run
from jobs._training import run_training
from pipeline.runtime.identities import identities


def run(run: Run) -> None:
    """Train, or find it done."""
    run_training(run, "meta_train", identities(run.config, run.directory).meta_train)


def main() -> None:
    """Entry point."""
    with open_run(job_parser(__doc__).parse_args(), "meta_train") as opened:
        run(opened)


if __name__ == "__main__":
    run_job(main)

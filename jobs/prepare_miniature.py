"""Write the miniature suite's raw signals; on request rebuild its frozen models, or report what both are worth.

In: the configuration's `miniature` section.  Out: the files below `miniature.data_dir`, laid out as users have them.
`--rebuild-models` trains the committed models again, from their own seeds, and overwrites them (minutes);
`--report` prints how well the encoders tell their modality's attributes and how well the language model is steered.
"""

from __future__ import annotations

import os
from typing import Any

from jobs._cli import console, job_parser, run_job, stage_progress
from jobs._run import Run, open_run, run_stage
from pipeline.config.artifacts import StageDir
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import MiniatureConfig
from pipeline.tracking import Tracker


def run(run: Run) -> None:
    """Generate what is missing of the suite."""
    stage = StageDir(run.directory / "prepare_miniature")
    if not (run.root / _suite(run).data_dir).is_dir() and stage.path.is_dir():
        stage.begin()  # the record of the stage came from a mirror, which holds no raw signals
    run_stage(run, "prepare_miniature", fingerprint(_suite(run)), lambda tracked: _generate(run, tracked))


def _suite(run: Run) -> MiniatureConfig:
    if run.config.miniature is None:
        raise ValueError("miniature: this configuration has no generated suite; choose --preset miniature or smoke")
    return run.config.miniature


def _generate(run: Run, tracked: Tracker) -> dict[str, Any]:
    # Not above: the generators import RDKit, SciPy and PyAV, which a finished stage does not need.
    from pipeline.data.miniature.suite import generate_suite

    done: dict[str, int] = {}
    with stage_progress("prepare_miniature", unit="samples") as advance:

        def on_progress(modality: str, samples: int, total: int) -> None:
            advance(samples - done.get(modality, 0), note=modality)
            done[modality] = samples

        counts = generate_suite(_suite(run), run.root, processes=_cpus(), on_progress=on_progress)
        advance(0, note=f"{len(counts)} modalities")
    tracked.log_metrics({"samples": float(sum(counts.values()))})
    return {"samples": counts}


def _rebuild(names: list[str]) -> None:
    # Only a rebuild needs transformers, whose import takes longer than a finished stage's check.
    from pipeline.models.miniature.build import MODEL_NAMES, build_models

    chosen = names or list(MODEL_NAMES)
    with stage_progress("rebuild models", total=len(chosen), unit="models") as advance:
        for name, seconds in build_models(chosen, processes=_cpus()):
            advance(1, note=name)
            console.print(f"  {name:<14} {seconds:6.0f} s")


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def main() -> None:
    """Entry point."""
    parser = job_parser(__doc__)
    parser.add_argument(
        "--rebuild-models", nargs="*", metavar="MODEL", help="train these of the suite's models again (none named: all)"
    )
    parser.add_argument("--report", action="store_true", help="print the suite's sanity figures")
    args = parser.parse_args()
    with open_run(args, "prepare_miniature") as opened:
        if args.rebuild_models is not None:
            _suite(opened)
            _rebuild(args.rebuild_models)
        run(opened)
        if args.report:
            # Measuring the suite reads and encodes it; writing it does not.
            from jobs import _suite_report

            _suite_report.report(opened)


if __name__ == "__main__":
    run_job(main)

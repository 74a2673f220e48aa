"""Integrate modalities from a few pairs each, configured ones or one of your own: adapter, merge, fine-tune.

In: the meta-trained model of a run, and the embeddings of its held-out modalities, or `--data`: raw files, vectors or
shards of a modality that nobody configured (its shards go below the run).
Out: `<run>/integrate/<modality>/<encoder>/shots-K/draw-D/{adapter.safetensors,adapter.json}`, or `--out`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jobs._cli import config_from, console, job_parser, run_job, stage_progress
from jobs._own_data import add_own_data, own_data, with_configuration_of_run, with_options
from jobs._run import TRACKING_FILE, Run, open_run, run_stage, tracking_id_of
from pipeline.config.artifacts import run_dir, write_text_atomic
from pipeline.config.root import project_root
from pipeline.config.schema import ExperimentConfig
from pipeline.runtime.fanout import fan_out
from pipeline.runtime.identities import identities
from pipeline.runtime.mirror import mirrored
from pipeline.tracking import Tracker


def run(run: Run) -> None:
    """Make every adapter of the configuration, or find it done."""
    identity = identities(run.config, run.directory).integrate

    def work(tracked: Tracker) -> dict[str, Any]:
        # Not above: torch and transformers take seconds, and a finished stage needs neither.
        from pipeline.runtime.integration import AdapterCell, adapter_cells, make_adapter

        todo = adapter_cells(run.config, run.root, run.directory, identity)
        with stage_progress("integrate", total=len(todo), unit="adapters") as advance:

            def on_done(cell: AdapterCell, _: Path) -> None:
                advance(note=cell.name)

            fan_out(
                make_adapter,
                todo,
                runtime=run.config.runtime,
                root=run.root,
                on_done=on_done,
                verbose=run.verbose,
            )
        tracked.log_metrics({"adapters": len(todo)})
        return {"adapters": len(todo)}

    run_stage(run, "integrate", identity, work)


def integrate_own_data(args: argparse.Namespace) -> None:
    """Make one adapter of the pairs that `--data` names."""
    with_configuration_of_run(args)
    # Before anything is fetched: options that exclude each other are told at once.
    config, root = with_options(config_from(args), args), project_root()
    directory = run_dir(config, root)
    with mirrored(directory, config.runtime.mirror) as fetched:
        if fetched:  # the configuration of a run that was not on this machine
            with_configuration_of_run(args)
            config = with_options(config_from(args), args)
        _integrate_own(args, config, root, directory)


def _integrate_own(args: argparse.Namespace, config: ExperimentConfig, root: Path, directory: Path) -> None:
    # Not above: torch and transformers take seconds, and the configuration is checked without them.
    from pipeline.runtime.own_data import check_request, extract_own, integrate_own

    own = own_data(args, config, root)
    check_request(config, own, directory)
    with stage_progress("embed", unit="rows") as advance:
        extract_own(config, own, root, directory, advance=advance, verbose=args.verbose)
    with stage_progress("integrate", total=1, unit="adapters") as advance:
        result = integrate_own(config, own, root, directory)
        advance(note=own.dataset.name if result.made else "done before, kept")
    if (made_by := tracking_id_of(directory)) is not None:
        # An adapter may lie anywhere; a model that is registered from it says which run it comes from.
        write_text_atomic(result.directory / TRACKING_FILE, made_by + "\n")
    left_out = f"; left out: {result.repeated} repeated pairs, {result.rejected} unusable rows"
    drawn = f"{result.shots:,} of " if result.shots < result.pairs else ""
    console.print(f"{drawn}{result.pairs:,} pairs{left_out}\n{result.directory}", markup=False, soft_wrap=True)
    if args.register is not None:
        from jobs.register_model import register

        register(config, root, result.directory, args.register)


def main() -> None:
    """Entry point."""
    parser = job_parser(__doc__)
    add_own_data(parser)
    args = parser.parse_args()
    if args.data is not None:
        integrate_own_data(args)
        return
    for option in ("modality", "kind", "encoder", "shots", "method", "finetune_steps", "chunk", "out", "register"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')} needs --data; settings of the run's own modalities: --set")
    with open_run(args, "integrate") as opened:
        run(opened)


if __name__ == "__main__":
    run_job(main)

"""Integrate held-out modalities from a few pairs each: adapter, merge, fine-tune (METHOD section 2.3).

In: embeddings of the held-out modalities and the meta-trained model.
Out: `<run>/integrate/<modality>/<encoder>/shots-K/draw-D/{adapter.safetensors,adapter.json}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs._cli import job_parser, run_job, stage_progress
from jobs._run import Run, open_run, run_stage
from pipeline.runtime.fanout import fan_out
from pipeline.runtime.identities import identities
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


def main() -> None:
    """Entry point."""
    with open_run(job_parser(__doc__).parse_args(), "integrate") as opened:
        run(opened)


if __name__ == "__main__":
    run_job(main)

"""Turn raw samples into verified embedding shards, for every modality and encoder of the configuration.

In: the sources and encoders of the configuration.  Out: `<run>/embeddings/<dataset>/<encoder>/`: Arrow shards, the
rejected rows, and a manifest.  Finished shards of an earlier run are kept; damaged ones are made again.
"""

from __future__ import annotations

from typing import Any

from jobs._cli import job_parser, run_job, stage_progress
from jobs._run import Run, log_datasets, open_run, run_stage
from pipeline.config.artifacts import StageDir
from pipeline.runtime.ray_data import extract
from pipeline.shards import verify_dataset
from pipeline.shards.plan import DatasetPlan, plan_datasets, plan_identity
from pipeline.tracking import Tracker


def run(run: Run) -> None:
    """Extract what is missing; a finished stage counts only while all its files are whole."""
    directory = run.directory / "embeddings"
    plans = plan_datasets(run.config, run.root, directory)
    identity = plan_identity(plans)
    stage = StageDir(directory)
    if stage.is_complete(identity) and any(verify_dataset(target.directory) for p in plans for target in p.targets):
        stage.begin()
    run_stage(run, "extract_embeddings", identity, lambda tracked: _work(run, plans, tracked), directory=directory)


def _work(run: Run, plans: list[DatasetPlan], tracked: Tracker) -> dict[str, Any]:
    done: dict[tuple[str, str], int] = {}
    with stage_progress(
        "extract_embeddings", total=sum(plan.rows * len(plan.targets) for plan in plans), unit="rows"
    ) as advance:

        def on_progress(dataset: str, encoder: str, rows_done: int, rows_total: int) -> None:
            # Each is told first with the rows that an earlier run left.
            found = (dataset, encoder) not in done
            advance(rows_done - done.get((dataset, encoder), 0), note=f"{dataset}, {encoder}", unpaced=found)
            done[dataset, encoder] = rows_done

        manifests = extract(
            run.config, run.root, run.directory / "embeddings", on_progress=on_progress, verbose=run.verbose
        )
        rejected = sum(manifest.rejected.rows for manifest in manifests.values())
        advance(0, note=f"{len(manifests)} datasets, {rejected} rows rejected")
    rows = sum(manifest.rows for manifest in manifests.values())
    tracked.log_metrics({"rows": float(rows), "rejected_rows": float(rejected)})
    log_datasets(run, tracked, "embeddings", "train", "text", run.config.evaluate.on)
    return {"datasets": len(manifests), "rows": rows, "rejected": rejected}


def main() -> None:
    """Entry point."""
    with open_run(job_parser(__doc__).parse_args(), "extract_embeddings") as opened:
        run(opened)


if __name__ == "__main__":
    run_job(main)

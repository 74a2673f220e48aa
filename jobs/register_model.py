"""Register an adapter as an MLflow model that `mlflow models predict` and `mlflow models serve` run.

In: an adapter folder that `jobs.integrate` wrote.  Out: a new version of a registered model in the tracking store, with
copies of its encoder and LLM unless told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jobs._cli import config_from, console, job_parser, run_job, stage_progress
from jobs._run import tracking_id_of
from pipeline.config.root import project_root
from pipeline.config.schema import ExperimentConfig
from pipeline.evaluation.provenance import git_commit


def register(
    config: ExperimentConfig,
    root: Path,
    directory: Path,
    name: str,
    *,
    example: Path | None = None,
    copy_models: bool = True,
) -> None:
    """Register an adapter, and say how to run it."""
    # Not above: torch takes seconds, and `--help` needs none.
    from pipeline.tracking import source_tags
    from pipeline.tracking.registry import register_adapter
    from pipeline.tracking.store import Store, local_uri

    store = Store(config.tracking.uri or local_uri(root / config.runs_dir), config.tracking.experiment)
    with stage_progress("register", total=1, unit="models") as advance:
        made = register_adapter(
            store,
            directory,
            name,
            root,
            example=example,
            copy_models=copy_models,
            tags=source_tags("jobs.register_model", str(git_commit(root))),
            made_by=tracking_id_of(directory),
        )
        advance(note=f"{made.name}, version {made.version}")
    # MLflow starts its server by name, which is in no PATH unless the environment is activated.
    where = f"PATH={Path(sys.executable).parent}:$PATH MLFLOW_TRACKING_URI={made.tracking_uri}"
    command = f"{where} mlflow models serve -m {made.uri} --env-manager local -p 5001"
    console.print(command, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point."""
    parser = job_parser(__doc__)
    parser.add_argument("--adapter", type=Path, required=True, metavar="DIR", help="adapter folder")
    parser.add_argument("--model", required=True, metavar="NAME", help="name of the registered model")
    parser.add_argument("--example", type=Path, metavar="FILE", help="input example (default: a blank one)")
    parser.add_argument(
        "--models",
        choices=("copy", "reference"),
        default="copy",
        help="encoder and LLM: copies in the model, or the places they lie at (default: copy)",
    )
    args = parser.parse_args()
    config = config_from(args)
    copy_models = args.models == "copy"
    register(config, project_root(), args.adapter, args.model, example=args.example, copy_models=copy_models)


if __name__ == "__main__":
    run_job(main)

"""Check embedding shards byte by byte against their manifests.

In: folders, searched for datasets (default: the embeddings of the run that the configuration names).
Out: one line a dataset, a table of everything that is wrong; exit code 1 where anything is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from jobs._cli import config_from, console, job_parser, run_job
from pipeline.config.artifacts import run_dir
from pipeline.config.root import project_root
from pipeline.shards import find_datasets, load_manifest, verify_dataset


def main() -> None:
    """Entry point."""
    parser = job_parser(__doc__)
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="folder with datasets at or below it")
    args = parser.parse_args()
    config = config_from(args)
    if verify(args.paths or [run_dir(config, project_root()) / "embeddings"]):
        sys.exit(1)


def verify(paths: list[Path]) -> int:
    """Check every dataset below `paths`; returns the number of problems."""
    table = Table(title="damaged embedding shards")
    for heading in ("dataset", "file", "problem"):
        table.add_column(heading, overflow="fold")
    for path in paths:
        directories = find_datasets(path)
        if not directories:
            raise ValueError(
                f"no embedding dataset at or below {path}: give a folder that jobs.extract_embeddings wrote"
            )
        for directory in directories:
            problems = verify_dataset(directory)
            for problem in problems:
                table.add_row(str(directory), problem.file, problem.problem)
            if not problems:
                manifest = load_manifest(directory)
                console.print(f"ok  {directory}  {manifest.rows:,} rows in {len(manifest.shards)} shards", markup=False)
    if table.row_count:
        console.print(table)
    return table.row_count


if __name__ == "__main__":
    run_job(main)

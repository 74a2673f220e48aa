"""Write embedding datasets as Parquet: one file a dataset, one row group a shard, verified on the way.

In: folders or URIs, searched for datasets (default: the embeddings of the run that the configuration names).
Out: `--to FILE.parquet` for a single dataset, else `--to FOLDER`, which gets `<dataset's path>.parquet` of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs._cli import config_from, console, job_parser, run_job
from jobs._shards import add_locations, open_datasets
from pipeline.shards.export import export_parquet

_SUFFIX = ".parquet"


def main() -> None:
    """Entry point."""
    parser = job_parser(__doc__)
    add_locations(parser)
    parser.add_argument("--to", type=Path, metavar="FILE_OR_FOLDER", help="where the Parquet goes (needed)")
    _export(parser.parse_args())


def _export(args: argparse.Namespace) -> None:
    config = config_from(args)
    target: Path | None = args.to
    if target is None:
        raise ValueError("--to is missing: give a file that ends in .parquet for one dataset, or a folder")
    datasets = list(open_datasets(args.locations, config))
    single = target.suffix == _SUFFIX and not target.is_dir()
    if single and len(datasets) > 1:
        raise ValueError(f"--to {target} is one file, but there are {len(datasets)} datasets: give a folder")
    paths = [target if single else target / f"{name}{_SUFFIX}" for name, _ in datasets]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise ValueError(f"two datasets would be written to {twice[0]}: export them one by one")
    for path, (_, dataset) in zip(paths, datasets, strict=True):
        size = export_parquet(dataset, path)
        console.print(
            f"{path}  {len(dataset):,} rows in {dataset.shard_count} row groups, {size / 2**20:,.1f} MiB",
            markup=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    run_job(main)

"""What the jobs that look at finished embeddings share: which datasets they are asked about.

In: folders and URIs, or none, and the configuration.  Out: the datasets at or below them, opened, each with a name.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.artifacts import run_dir
from pipeline.config.root import project_root
from pipeline.config.schema import ExperimentConfig
from pipeline.shards import EmbeddingDataset, find_datasets
from pipeline.shards.folder import remote_datasets, uri_below


def add_locations(parser: argparse.ArgumentParser) -> None:
    """The argument `PATH...`."""
    parser.add_argument(
        "locations",
        nargs="*",
        metavar="PATH",
        help="folder or URI (s3://, gs://, ...) with datasets at or below it (default: the embeddings of the run)",
    )


def open_datasets(locations: list[str], config: ExperimentConfig) -> Iterator[tuple[str, EmbeddingDataset]]:
    """Every dataset at or below the locations, and its path relative to the one it was found at (or that one's name).

    A shard is fetched, and its hash checked, when a row of it is first read.  `ValueError` where there is no dataset.
    """
    for location in locations or [str(run_dir(config, project_root()) / "embeddings")]:
        remote = "://" in location
        if remote:
            found = [(name, uri_below(location, name)) for name in remote_datasets(location)]
        else:
            directories = find_datasets(Path(location))
            found = [(str(path.relative_to(location)), str(path)) for path in directories]
        if not found:
            raise ValueError(
                f"no embedding dataset at or below {location}: give a folder that jobs.extract_embeddings wrote"
            )
        for name, place in found:
            itself = name in ("", ".")
            last = Path(location.partition("?")[0]).name if remote else Path(location).resolve().name
            yield last if itself else name, EmbeddingDataset(place)

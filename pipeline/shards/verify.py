"""Checking an embedding dataset file by file.

In: a dataset's folder.  Out: every problem found; none means that each byte is the one that was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.shards.folder import file_problem
from pipeline.shards.manifest import MANIFEST_FILE, Manifest, load_manifest
from pipeline.shards.reader import EmbeddingDataset


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a dataset."""

    file: str
    """Name of the file."""
    problem: str
    """What is wrong with it."""


def verify_dataset(directory: Path) -> list[Problem]:
    """All problems of the dataset in `directory`; empty where it is whole."""
    try:
        manifest = load_manifest(directory)
    except ValueError as error:
        return [Problem(MANIFEST_FILE, str(error))]
    return list(_file_problems(directory, manifest)) or list(_row_problems(directory))


def find_datasets(path: Path) -> list[Path]:
    """Folders at or below `path` that hold a manifest or shards, in order."""
    files = (file for pattern in (MANIFEST_FILE, "shard-*.arrow") for file in path.rglob(pattern))
    return sorted({file.parent for file in files})


def _file_problems(directory: Path, manifest: Manifest) -> Iterator[Problem]:
    for entry in (*manifest.shards, manifest.rejected):
        problem = file_problem(directory / entry.name, entry, hashed=True)
        if problem is not None:
            yield Problem(entry.name, problem)


def _row_problems(directory: Path) -> Iterator[Problem]:
    """What hashes cannot show: files that are as written, but were written wrong."""
    dataset = EmbeddingDataset(directory, verify=False)
    seen: set[str] = set()
    for index, entry in enumerate(dataset.manifest.shards):
        try:
            ids = dataset.table(index, ["id"])["id"].to_pylist()
        except ValueError as error:
            yield Problem(entry.name, str(error))
            continue
        repeated = len(ids) - len(seen.union(ids)) + len(seen)
        if repeated:
            yield Problem(entry.name, f"holds {repeated} ids that occurred before")
        seen.update(ids)

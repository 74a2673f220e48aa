"""Checking an embedding dataset file by file.

In: a dataset's folder.  Out: every problem found; none means that each byte is the one that was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.shards.folder import file_problem
from pipeline.shards.manifest import MANIFEST_FILE, Manifest, load_manifest
from pipeline.shards.reader import EmbeddingDataset
from pipeline.shards.vectors import usable, vectors_of


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
    last_source_row = -1
    for index, entry in enumerate(dataset.manifest.shards):
        try:
            # As in `tables`, nothing stays mapped; but that would end with the first shard that cannot be read.
            table = dataset._passing_table(index)
            table.validate(full=True)
            problems = list(_table_problems(table, seen, last_source_row))
        except (ValueError, OSError) as error:
            yield Problem(entry.name, " ".join(str(error).split()))
            continue
        yield from (Problem(entry.name, problem) for problem in problems)
        largest = pc.max(table["source_row"]).as_py()
        last_source_row = last_source_row if largest is None else max(last_source_row, largest)


def _table_problems(table: pa.Table, seen: set[str], last_source_row: int) -> Iterator[str]:
    """Problems of one shard's rows; its ids are added to `seen`."""
    nulls = [name for name in table.column_names if table[name].null_count]
    if nulls:
        yield f"lacks values of column {nulls[0]!r}"
        return
    before = len(seen)
    seen.update(table["id"].to_pylist())
    repeated = before + table.num_rows - len(seen)
    if repeated:
        yield f"holds {repeated} ids that occurred before"
    if (np.diff(table["source_row"].to_numpy(), prepend=last_source_row) <= 0).any():
        yield "holds rows that are not in the order of their source (source_row does not ascend)"
    for column in ("embedding", "text_embedding"):
        bad = sum(int(np.count_nonzero(~usable(vectors_VD))) for vectors_VD in vectors_of(table[column]))
        if bad:
            yield f"holds {bad} vectors of column {column!r} that are zero, infinite or NaN"

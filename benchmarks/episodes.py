"""Random access to episodes: our shards against pickled dictionaries of arrays and against a plain NumPy memory map.

In: a number of rows.  Out: the median seconds of one episode (128 support and 32 query rows of 768 x float16, as a
float32 tensor) by each of them, warm and cold.

Shards and memory map are open before the clock starts, and the shards' hashes checked; what that costs, once a
process, is measured beside it.  A pickle is unpickled for each episode, as there is no other way to a row of it.  Warm:
all pages are in memory.  Cold: no page of the rows is; what came from the disk then is measured as well.  The variants
take turns in a random order, since an unpickled file leaves the processor's caches full of itself.

This is the only place of the project that reads a pickle: one that it wrote itself a moment ago.
"""

from __future__ import annotations

import gc
import os
import pickle
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.project import draw_texts, drawn, text_project
from pipeline.shards import EmbeddingDataset
from pipeline.shards.extraction import extract_locally
from pipeline.shards.vectors import vectors_of

SUPPORT, QUERIES = 128, 32
ROWS_PER_SHARD = 1024

_PICKLES = ("pickle", "pickle_of_rows")

Rows = npt.NDArray[np.int64]
Read = Callable[[Rows], Tensor]


@dataclass(kw_only=True)
class Variant:
    """One way to the rows."""

    files: Sequence[Path]
    """What it reads."""
    open: Callable[[], Read]
    """Opens them, without touching a row; what comes back gives the vectors of rows, float32 `[N, 768]`."""
    warm_s: list[float] = field(default_factory=list)
    """Seconds of each warm episode."""
    cold_s: list[float] = field(default_factory=list)
    """Seconds of each cold episode."""
    open_s: list[float] = field(default_factory=list)
    """Seconds of opening, each time, with cold files."""
    cold_mib: list[float] = field(default_factory=list)
    """What the disk gave for it."""


def measure(folder: Path, *, rows: int, width: int = 768, repeats: int = 200, cold_repeats: int = 20) -> dict[str, Any]:
    """Medians and their ratios."""
    if rows < SUPPORT + QUERIES:
        raise ValueError(f"--rows must be at least {SUPPORT + QUERIES} for this part, got {rows}: one episode")
    variants = _variants(folder, rows, width)
    rng = np.random.default_rng(0)
    _check_equal(variants, _episode(rng, rows))
    _warm(variants, rng, rows, repeats)
    _cold(variants, rng, rows, cold_repeats)
    figures: dict[str, Any] = {"rows": rows}
    for name, variant in variants.items():
        figures[name] = {
            "warm_ms": 1e3 * statistics.median(variant.warm_s),
            "cold_ms": 1e3 * statistics.median(variant.cold_s),
            "cold_mib_from_disk": statistics.median(variant.cold_mib),
            "open_ms": 1e3 * statistics.median(variant.open_s),
        }
    for state in ("warm", "cold"):
        ours = figures["shards"][f"{state}_ms"]
        for name in _PICKLES:
            figures[f"{state}_{name}_over_shards"] = figures[name][f"{state}_ms"] / ours
        figures[f"{state}_shards_over_memmap"] = ours / figures["memmap"][f"{state}_ms"]
    return figures


def _variants(folder: Path, rows: int, width: int) -> dict[str, Variant]:
    config = text_project(folder, draw_texts(rows), drawn(width), rows_per_shard=ROWS_PER_SHARD)
    extract_locally(config, folder, folder / "out", on_progress=lambda *_: None)
    directory = folder / "out" / "texts" / "drawn"
    dataset = EmbeddingDataset(directory)
    matrix = np.concatenate([vectors for table in dataset.tables() for vectors in vectors_of(table["embedding"])])
    np.save(folder / "embedding.npy", matrix)
    ids = dataset.ids(range(rows))
    contents = {"columns": {"id": ids, "embedding": matrix}, "rows": dict(zip(ids, matrix.copy(), strict=True))}
    for name, content in contents.items():
        with (folder / f"{name}.pkl").open("wb") as stream:
            pickle.dump(content, stream, protocol=pickle.HIGHEST_PROTOCOL)
    os.sync()  # only clean pages can be dropped
    shards = [*sorted(directory.glob("shard-*.arrow")), directory / "manifest.json"]
    return {
        "shards": Variant(files=shards, open=partial(_open_shards, directory)),
        "memmap": Variant(files=[folder / "embedding.npy"], open=partial(_open_memmap, folder / "embedding.npy")),
        "pickle": Variant(files=[folder / "columns.pkl"], open=partial(_open_columns, folder / "columns.pkl")),
        "pickle_of_rows": Variant(files=[folder / "rows.pkl"], open=partial(_open_rows, folder / "rows.pkl", ids)),
    }


def _open_shards(directory: Path) -> Read:
    dataset = EmbeddingDataset(directory)
    for shard in range(dataset.shard_count):
        dataset.table(shard)  # checks its hash
    return lambda rows: dataset.embeddings(rows, normalize=False)


def _open_memmap(path: Path) -> Read:
    matrix = np.load(path, mmap_mode="r")
    return lambda rows: torch.from_numpy(matrix[rows]).float()


def _open_columns(path: Path) -> Read:
    """One array with a row for each id."""

    def read(rows: Rows) -> Tensor:
        with path.open("rb") as stream:
            columns = pickle.load(stream)  # noqa: S301 - written by this process
        return torch.from_numpy(columns["embedding"][rows]).float()

    return read


def _open_rows(path: Path, ids: Sequence[str]) -> Read:
    """One array for each id, as the reference code keeps its embeddings."""

    def read(rows: Rows) -> Tensor:
        with path.open("rb") as stream:
            vectors = pickle.load(stream)  # noqa: S301 - written by this process
        return torch.from_numpy(np.stack([vectors[ids[row]] for row in rows.tolist()])).float()

    return read


def _episode(rng: np.random.Generator, rows: int) -> Rows:
    return rng.choice(rows, size=SUPPORT + QUERIES, replace=False)


def _check_equal(variants: dict[str, Variant], episode: Rows) -> None:
    first, *others = (variant.open()(episode) for variant in variants.values())
    if not all(torch.equal(first, other) for other in others):
        raise RuntimeError("the variants read different numbers")


def _warm(variants: dict[str, Variant], rng: np.random.Generator, rows: int, repeats: int) -> None:
    reads = {name: variant.open() for name, variant in variants.items()}
    for read in reads.values():
        read(np.arange(rows))  # every page is in memory, every hash checked
    for _ in range(repeats):
        episode = _episode(rng, rows)
        for name in rng.permutation(list(variants)):
            began = time.perf_counter()
            reads[name](episode)
            variants[name].warm_s.append(time.perf_counter() - began)


def _cold(variants: dict[str, Variant], rng: np.random.Generator, rows: int, repeats: int) -> None:
    for _ in range(repeats):
        episode = _episode(rng, rows)
        for name in rng.permutation(list(variants)):
            variant = variants[name]
            gc.collect()  # pages that are mapped somewhere cannot be dropped
            for file in variant.files:
                _drop(file)
            began = time.perf_counter()
            read = variant.open()
            variant.open_s.append(time.perf_counter() - began)
            for file in variant.files:
                _drop(file)
            before = _bytes_from_disk()
            began = time.perf_counter()
            read(episode)
            variant.cold_s.append(time.perf_counter() - began)
            variant.cold_mib.append((_bytes_from_disk() - before) / 2**20)


def _drop(file: Path) -> None:
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes_from_disk() -> int:
    """What this process has had fetched from storage so far."""
    match = re.search(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(encoding="ascii"), flags=re.MULTILINE)
    assert match is not None
    return int(match[1])

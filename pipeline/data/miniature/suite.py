"""Generation of the miniature suite: raw signals in files, as users have them.

In: a `MiniatureConfig` and the project's root.  Out: one folder a modality below `data_dir`, each written beside its
place and moved there when it is complete; a folder that is complete for the same configuration and code is kept.
Every byte is a function of (seed, modality, index): the number of processes does not matter.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.artifacts import StageDir
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import MiniatureConfig
from pipeline.data.miniature.example import Example, example_rng
from pipeline.data.miniature.grammar import GRAMMARS
from pipeline.data.miniature.modalities import MODALITIES, Modality, sample_count, splits
from pipeline.data.miniature.processes import in_processes

Progress = Callable[[str, int, int], None]
"""Told `(modality, samples done, samples in all)` whenever some of a modality's samples are done."""
Row = dict[str, Any]

FILES_DIR = "files"
_CHUNK = 256
_CAPTIONS = 2
"""Captions a sample where the table's format can hold a list."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Samples `start` to `stop` of a modality: what one task generates."""

    modality: str
    seed: int
    start: int
    stop: int
    folder: Path


def generate_suite(
    config: MiniatureConfig,
    root: Path,
    *,
    processes: int,
    on_progress: Progress | None = None,
    modalities: Collection[str] | None = None,
) -> dict[str, int]:
    """Write the modalities (default: all) that are not complete yet; returns the samples of each."""
    names = list(MODALITIES) if modalities is None else list(modalities)
    unknown = sorted(set(names) - set(MODALITIES))
    if unknown:
        raise ValueError(f"modalities: expected some of {sorted(MODALITIES)}, got {unknown}")
    counts = {name: sample_count(name, config) for name in names}
    data_dir = root / config.data_dir
    report = on_progress or (lambda name, done, total: None)
    with _locked(data_dir):
        missing = [
            name for name in names if not StageDir(data_dir / name).is_complete(_stamp(name, counts[name], config.seed))
        ]
        for name in set(names) - set(missing):
            report(name, counts[name], counts[name])
        chunks = [chunk for name in missing for chunk in _chunks(name, counts[name], config.seed, data_dir)]
        rows: dict[str, list[list[Row]]] = {name: [] for name in missing}
        for chunk, made in _generated(chunks, processes):
            rows[chunk.modality].append(made)
            done = sum(map(len, rows[chunk.modality]))
            report(chunk.modality, done, counts[chunk.modality])
            if done == counts[chunk.modality]:
                _publish(chunk, rows.pop(chunk.modality), data_dir)
    return counts


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One writer at a time; a second one waits, and then finds the work done."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / ".lock").open("w")
    except OSError as error:
        raise ValueError(
            f"miniature.data_dir: {data_dir} cannot be written ({error.strerror}): "
            f"choose another with --set miniature.data_dir=PATH"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stamp(name: str, count: int, seed: int) -> str:
    """Fingerprint of a modality's content: its size, its seed and the code that makes it."""
    return fingerprint({"modality": name, "samples": count, "seed": seed, "code": _code_hash()})


@cache
def _code_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _partial(data_dir: Path, name: str) -> Path:
    return data_dir / f".{name}.partial"


def _chunks(name: str, count: int, seed: int, data_dir: Path) -> Iterator[_Chunk]:
    """The tasks of one modality, after clearing what an interrupted run has left."""
    folder = _partial(data_dir, name)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / FILES_DIR if MODALITIES[name].suffix else folder).mkdir(parents=True)
    for start in range(0, count, _CHUNK):
        yield _Chunk(name, seed, start, min(start + _CHUNK, count), folder)


def _generated(chunks: list[_Chunk], processes: int) -> Iterator[tuple[_Chunk, list[Row]]]:
    """Each chunk with its rows, as they become ready."""
    if processes <= 1 or len(chunks) <= 1:
        yield from ((chunk, _make_chunk(chunk)) for chunk in chunks)
        return
    yield from in_processes(_make_chunk, chunks, processes)


def _make_chunk(chunk: _Chunk) -> list[Row]:
    modality = MODALITIES[chunk.modality]
    rows = []
    for index in range(chunk.start, chunk.stop):
        example = modality.make(chunk.seed, index)
        row: Row = {"index": index, "id": f"{modality.name}-{index:05d}"}
        row[modality.payload_field] = _stored_payload(modality, example, chunk.folder, row["id"])
        if modality.role != "text":
            row[modality.caption_field] = _captions(modality, example, chunk.seed, index)
        rows.append(row | example.values)
    return rows


def _stored_payload(modality: Modality, example: Example, folder: Path, name: str) -> bytes | str:
    """What stands in the table: the payload itself, or the path of the file that is written here."""
    if not modality.suffix:
        return example.payload
    if isinstance(example.payload, str):
        raise TypeError(f"modality {modality.name!r} is stored in files, but its generator made text")
    path = f"{FILES_DIR}/{name}.{modality.suffix}"
    (folder / path).write_bytes(example.payload)
    return path


def _captions(modality: Modality, example: Example, seed: int, index: int) -> str | list[str]:
    grammar = GRAMMARS[modality.name]
    rng = example_rng(seed, f"{modality.name}/captions", index)
    if modality.format == "csv":
        return grammar.caption(example.values, rng)
    return list(grammar.paraphrases(example.values, rng))


def _publish(chunk: _Chunk, parts: Iterable[list[Row]], data_dir: Path) -> None:
    """Write a modality's table, stamp the folder, and move it to its place."""
    modality = MODALITIES[chunk.modality]
    rows = sorted((row for part in parts for row in part), key=lambda row: row["index"])
    for row, split in zip(rows, splits(modality.name, len(rows), chunk.seed), strict=True):
        del row["index"]
        row["split"] = split
    _write_table(chunk.folder / modality.table, modality.format, rows)
    stamp = _stamp(modality.name, len(rows), chunk.seed)
    StageDir(chunk.folder).commit(stamp, {"samples": len(rows)})
    place = data_dir / modality.name
    shutil.rmtree(place, ignore_errors=True)
    chunk.folder.rename(place)


def _write_table(path: Path, kind: str, rows: list[Row]) -> None:
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=512)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)

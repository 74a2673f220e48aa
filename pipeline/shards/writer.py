"""Writing one shard, and finding it again after a crash.

In: a table and its record.  Out: a file that appears whole or not at all, and a `Shard` with what the manifest needs.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.fingerprint import file_sha256
from pipeline.shards.format import ShardRecord, parse_shard_name, record_of, shard_name, vector_width, with_record
from pipeline.shards.manifest import MANIFEST_FILE, FileEntry

_TEMPORARY = ".shard-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A shard that is on disk."""

    index: int
    """Its place in the dataset."""
    entry: FileEntry
    """Its file."""
    record: ShardRecord
    """What it was made from, and which rows it rejected."""
    width: int
    """Length of its embeddings."""
    text_width: int
    """Length of its text embeddings."""
    splits: dict[str, int]
    """Rows of each split."""


def write_shard(directory: Path, index: int, rows: pa.Table, record: ShardRecord) -> Shard:
    """Write shard `index` of the dataset in `directory`; equal rows and records give equal bytes.

    A file that holds them already stays as it is: a task that is tried again may find the work of its first trial.
    """
    table = with_record(rows.combine_chunks(), record)  # one record batch: readers address it without copying
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as stream:
        stream.write_table(table)
    content = sink.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    path = directory / shard_name(index, sha256)
    if path.is_symlink() or not path.is_file() or file_sha256(path) != sha256:
        write_bytes_atomic(path, content)
    return _shard(index, table, record, file_entry(path.name, table.num_rows, content))


def file_entry(name: str, rows: int, content: pa.Buffer) -> FileEntry:
    """The manifest's entry of a file with this content."""
    return FileEntry(name=name, rows=rows, bytes=content.size, sha256=hashlib.sha256(content).hexdigest())


def _shard(index: int, table: pa.Table, record: ShardRecord, entry: FileEntry) -> Shard:
    counts = pc.value_counts(table["split"].combine_chunks()).to_pylist()
    return Shard(
        index=index,
        entry=entry,
        record=record,
        width=vector_width(table.schema.field("embedding").type),
        text_width=vector_width(table.schema.field("text_embedding").type),
        splits={count["values"]: count["counts"] for count in counts},
    )


def write_bytes_atomic(path: Path, content: pa.Buffer) -> None:
    """Write a file so that a reader, or a crash, sees the whole of it or nothing new."""
    handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide shards from other users
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def finished_shards(directory: Path, wanted: Mapping[int, ShardRecord]) -> dict[int, Shard]:
    """Those of the `wanted` shards (by index; what they reject is not compared) that lie in `directory` undamaged."""
    found = {}
    for path in sorted(directory.glob("shard-*.arrow")) if directory.is_dir() else ():
        shard = _undamaged(path)
        if shard is not None and replace(shard.record, rejected=()) == wanted.get(shard.index):
            found[shard.index] = shard
    return found


def _undamaged(path: Path) -> Shard | None:
    parsed = parse_shard_name(path.name)
    if parsed is None or path.is_symlink():  # readers refuse links that lead elsewhere
        return None
    index, digest = parsed
    sha256 = file_sha256(path)
    if not sha256.startswith(digest):
        return None
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
        record = record_of(table.schema)
        if record is None:
            return None
        entry = FileEntry(name=path.name, rows=table.num_rows, bytes=source.size(), sha256=sha256)
        return _shard(index, table, record, entry)


def remove_strays(directory: Path, keep: Iterable[str]) -> None:
    """Delete shards of an earlier content and what a killed writer left; `keep` are the names in the manifest."""
    kept = set(keep)
    for pattern in ("shard-*.arrow", f"{_TEMPORARY}*.tmp", f".{MANIFEST_FILE}.*.tmp"):
        for path in directory.glob(pattern):
            if path.name not in kept:
                path.unlink(missing_ok=True)

"""An embedding dataset as one Parquet file, for programs that read no Arrow IPC.

In: a dataset.  Out: a file with the same rows, order and Arrow types, one row group a shard, compressed by zstd; the
manifest goes along in the schema's metadata.

Each shard's hash is checked when it is read, and each row group is read back and compared with its shard before the
file gets its name.  One shard is in memory at a time.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.shards.reader import EmbeddingDataset

MANIFEST_KEY = b"semi.manifest"


def export_parquet(dataset: EmbeddingDataset, path: Path) -> int:
    """Write the dataset to `path`, whole or not at all; returns the file's size in bytes.

    `ValueError` where a shard is damaged, or where what was written does not read back as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _appearing_whole(path) as temporary:
        _write(dataset, temporary)
        _compare(dataset, temporary, path)
    return path.stat().st_size


def _write(dataset: EmbeddingDataset, path: Path) -> None:
    manifest = json.dumps(asdict(dataset.manifest), sort_keys=True)
    schema = dataset.take([]).schema.with_metadata({MANIFEST_KEY: manifest.encode()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in dataset.tables():
            # One call is one row group only up to a size; here it is one whatever the size.
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=max(table.num_rows, 1))


def _compare(dataset: EmbeddingDataset, temporary: Path, path: Path) -> None:
    with pq.ParquetFile(temporary) as written:
        if written.num_row_groups != dataset.shard_count:
            raise ValueError(
                f"{path} is not written: it would hold {written.num_row_groups} row groups instead of "
                f"{dataset.shard_count}; try again"
            )
        for shard, table in enumerate(dataset.tables()):
            if not written.read_row_group(shard).equals(table):
                raise ValueError(f"{path} is not written: shard {shard} did not read back as it was; try again")


@contextmanager
def _appearing_whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that gets its name when the block ends well, and is removed otherwise."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        yield temporary
        os.fsync(handle)
        temporary.chmod(0o644)  # mkstemp's 0600 would hide the file from other users
        temporary.replace(path)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)

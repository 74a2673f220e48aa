"""A decoded shard as bytes, for the way from the process that decodes to the one that encodes.

In: a `DecodedShard`.  Out: an Arrow IPC stream, and the same shard from it; arrays are views of the stream's memory.

All rows of a shard travel as one value, so nothing on the way can split, merge or reorder them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.schema import SignalKind
from pipeline.data.sample import Sample
from pipeline.shards.build import DecodedRow, DecodedShard
from pipeline.shards.format import RejectedRow
from pipeline.signal import Signal

_REJECTED = b"rejected"
_SCHEMA = pa.schema(
    [
        ("source_row", pa.int64()),
        ("id", pa.string()),
        ("captions", pa.list_(pa.large_string())),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("split", pa.string()),
        ("source", pa.string()),
        ("kind", pa.string()),
        ("text", pa.large_string()),
        ("data", pa.large_binary()),
        ("dtype", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("rate_hz", pa.float64()),
    ]
)


def pack(decoded: DecodedShard) -> pa.Buffer:
    """The shard as an Arrow IPC stream."""
    rejected = json.dumps([asdict(row) for row in decoded.rejected])
    schema = _SCHEMA.with_metadata({_REJECTED: rejected.encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_table(pa.Table.from_pylist([_packed(row) for row in decoded.rows], schema=schema))
    return sink.getvalue()


def unpack(content: pa.Buffer) -> DecodedShard:
    """The shard that `pack` wrote."""
    table = pa.ipc.open_stream(content).read_all()
    rejected = tuple(RejectedRow(**row) for row in json.loads(table.schema.metadata[_REJECTED]))
    plain = table.drop_columns(["data"]).to_pylist()
    cells = [cell for chunk in table["data"].chunks for cell in _cells(chunk)]
    rows = tuple(_unpacked(row, data) for row, data in zip(plain, cells, strict=True))
    return DecodedShard(rows=rows, rejected=rejected)


def to_cell(content: pa.Buffer) -> pa.LargeBinaryArray:
    """The content as a column of one row, without a copy."""
    offsets = pa.py_buffer(np.array([0, content.size], dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, content])


def from_cell(column: pa.ChunkedArray) -> pa.Buffer:
    """The content of a column of one row, without a copy."""
    (cell,) = (cell for chunk in column.chunks for cell in _cells(chunk))
    return cell


def _cells(chunk: pa.LargeBinaryArray) -> Iterator[pa.Buffer]:
    """The bytes of each row, as slices: Arrow's own scalars copy."""
    _, offsets, data = chunk.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
    for start, stop in pairwise(bounds):
        yield data.slice(start, stop - start)


def _packed(row: DecodedRow) -> dict[str, Any]:
    sample, signal = row.sample, row.signal
    array = signal.array
    return {
        "source_row": row.source_row,
        "id": sample.id,
        "captions": sample.captions,
        "attributes": list(sample.attributes.items()),
        "split": sample.split,
        "source": sample.source,
        "kind": signal.kind,
        "text": signal.text,
        "data": None if array is None else np.ascontiguousarray(array).reshape(-1).view(np.uint8).data,
        "dtype": None if array is None else array.dtype.str,
        "shape": None if array is None else array.shape,
        "rate_hz": signal.rate_hz,
    }


def _unpacked(row: dict[str, Any], data: pa.Buffer) -> DecodedRow:
    array = None
    if row["dtype"] is not None:
        array = np.frombuffer(data, dtype=row["dtype"]).reshape(row["shape"])
    kind: SignalKind = row["kind"]
    sample = Sample(
        id=row["id"],
        payload="",
        captions=tuple(row["captions"]),
        attributes=dict(row["attributes"]),
        split=row["split"],
        source=row["source"],
    )
    signal = Signal(kind=kind, array=array, text=row["text"], rate_hz=row["rate_hz"])
    return DecodedRow(source_row=row["source_row"], sample=sample, signal=signal)

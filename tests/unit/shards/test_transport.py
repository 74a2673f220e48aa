"""A decoded shard survives the way through Arrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.config.schema import SignalKind
from pipeline.data.sample import Sample
from pipeline.shards.build import DecodedRow, DecodedShard
from pipeline.shards.format import RejectedRow
from pipeline.shards.transport import from_cell, pack, to_cell, unpack
from pipeline.signal import Signal

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ARRAY = arrays.arrays(
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]), shape=arrays.array_shapes(max_dims=4, max_side=4)
)
SIGNAL = st.one_of(
    st.builds(
        lambda kind, array, rate: Signal(kind=kind, array=array, rate_hz=rate),
        st.sampled_from(["image", "audio", "video", "series", "vector"]),
        ARRAY,
        st.none() | st.floats(1, 1e5),
    ),
    st.builds(lambda text: Signal(kind="text", text=text), TEXT),
)
SAMPLE = st.builds(
    Sample,
    id=TEXT,
    payload=st.just(""),
    captions=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    attributes=st.dictionaries(TEXT, TEXT, max_size=3),
    split=TEXT,
    source=TEXT,
)
ROW = st.builds(
    lambda row, sample, signal: DecodedRow(source_row=row, sample=sample, signal=signal),
    st.integers(0, 2**40),
    SAMPLE,
    SIGNAL,
)
REJECTED = st.builds(
    lambda row, text: RejectedRow.of(row, id=text, source=text, detail=text), st.integers(0, 2**40), TEXT
)


@given(st.lists(ROW, max_size=4).map(tuple), st.lists(REJECTED, max_size=2).map(tuple))
def test_a_shard_comes_back(rows: tuple[DecodedRow, ...], rejected: tuple[RejectedRow, ...]) -> None:
    back = unpack(pack(DecodedShard(rows=rows, rejected=rejected)))
    assert back.rejected == rejected
    for before, after in zip(rows, back.rows, strict=True):
        assert (before.source_row, before.sample) == (after.source_row, after.sample)
        assert (before.signal.kind, before.signal.text, before.signal.rate_hz) == (
            after.signal.kind,
            after.signal.text,
            after.signal.rate_hz,
        )
        assert (before.signal.array is None) == (after.signal.array is None)
        if before.signal.array is not None and after.signal.array is not None:
            assert before.signal.array.dtype == after.signal.array.dtype
            np.testing.assert_array_equal(before.signal.array, after.signal.array)


def test_arrays_are_views_of_the_message() -> None:
    kind: SignalKind = "image"
    array = np.arange(3_000_000, dtype=np.uint8).reshape(1000, 1000, 3)
    sample = Sample(id="i", payload="", captions=("c",), attributes={}, split="train", source="s")
    content = pack(
        DecodedShard(
            rows=(DecodedRow(source_row=0, sample=sample, signal=Signal(kind=kind, array=array)),), rejected=()
        )
    )
    before = pa.total_allocated_bytes()
    back = unpack(from_cell(pa.chunked_array([to_cell(content)]))).rows[0].signal.array
    assert back is not None
    assert pa.total_allocated_bytes() - before < 100_000
    assert content.address <= back.ctypes.data < content.address + content.size

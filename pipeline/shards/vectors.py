"""Arithmetic on a column of vectors, straight from a shard's memory.

In: a column whose innermost lists have a fixed size: one vector a row, or several.  Out: NumPy views, or checks.

Shape suffixes: V vectors of a chunk, D their width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Vectors = npt.NDArray[np.floating]

_BITS = {2: np.uint16, 4: np.uint32}


def vectors_of(column: pa.ChunkedArray) -> Iterator[Vectors]:
    """All vectors `[V, D]` of each chunk, without a copy; `ValueError` where the column holds none."""
    for chunk in column.chunks:
        lists = chunk
        while not pa.types.is_fixed_size_list(lists.type):
            if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
                raise ValueError(f"a column of type {column.type} holds no vectors")
            lists = lists.flatten()
        yield lists.flatten().to_numpy(zero_copy_only=True).reshape(-1, lists.type.list_size)


def usable(vectors_VD: Vectors) -> npt.NDArray[np.bool_]:
    """Which vectors `[V]` are finite and not all zero.

    Without their sign, floats are ordered like the integers of the same bits, zero first and infinity and NaN last: the
    largest of a vector tells both.  For float16, which processors do not compute with, that is forty times faster.
    """
    bits = _BITS[vectors_VD.dtype.itemsize]
    without_sign = bits(np.iinfo(bits).max >> 1)
    peaks_V = (vectors_VD.view(bits) & without_sign).max(axis=1, initial=0)
    infinity = np.array(np.inf, dtype=vectors_VD.dtype).view(bits)
    return (peaks_V > 0) & (peaks_V < infinity)

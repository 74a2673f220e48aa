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
_BLOCK = 1024


def vectors_of(column: pa.ChunkedArray) -> Iterator[Vectors]:
    """All vectors `[V, D]` of each chunk, without a copy; `ValueError` where the column holds none."""
    for chunk in column.chunks:
        lists = chunk
        while not pa.types.is_fixed_size_list(lists.type):
            if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
                raise ValueError(f"a column of type {column.type} holds no vectors")
            lists = lists.flatten()
        yield lists.flatten().to_numpy(zero_copy_only=True).reshape(-1, lists.type.list_size)


def norms(vectors_VD: Vectors) -> npt.NDArray[np.float64]:
    """Euclidean length `[V]` of each vector; a few megabytes at a time are widened to float64."""
    norms_V = np.empty(len(vectors_VD), dtype=np.float64)
    for start in range(0, len(vectors_VD), _BLOCK):
        wide_VD = vectors_VD[start : start + _BLOCK].astype(np.float64)
        norms_V[start : start + _BLOCK] = np.sqrt(np.einsum("vd,vd->v", wide_VD, wide_VD))
    return norms_V


def usable(vectors_VD: Vectors) -> npt.NDArray[np.bool_]:
    """Which vectors `[V]` are finite and not all zero.

    Without their sign, floats are ordered like the integers of the same bits, zero first and infinity and NaN last: the
    largest of a vector tells both.  For float16, which processors do not compute with, that is forty times faster.
    """
    bits = np.dtype(f"u{vectors_VD.dtype.itemsize}")
    numbers_VD: npt.NDArray[np.unsignedinteger] = vectors_VD.view(bits)
    without_sign = np.array(np.iinfo(bits).max >> 1, dtype=bits)
    peaks_V = (numbers_VD & without_sign).max(axis=1, initial=0)
    good_V: npt.NDArray[np.bool_] = (peaks_V > 0) & (peaks_V < np.array(np.inf, dtype=vectors_VD.dtype).view(bits))
    return good_V

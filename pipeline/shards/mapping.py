"""One shard file in memory-mapped form, and reading ahead for rows that are scattered over it.

In: the path of an Arrow IPC file.  Out: its table without a copy, and a hint to the system which bytes come next.

A page that is touched without a hint is waited for alone, with many neighbours that nobody asked for.  Hints for all
rows of an episode go to the disk side by side: on the machine of docs/shards.md a cold episode takes a twentieth.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

_PAGE = mmap.PAGESIZE
# macOS and Linux have it, Windows has not.
_WILL_NEED: int | None = getattr(mmap, "MADV_WILLNEED", None)


class MappedShard:
    """A shard's table, mapped for as long as this object or anything read from it lives."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._address = np.frombuffer(self._mapping, dtype=np.uint8).ctypes.data
        self.table: pa.Table = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._mapping))).read_all()
        """All columns."""

    def read_ahead(self, address: int, starts: Iterable[int], size: int) -> None:
        """Have `size` bytes fetched from each of `starts`, counted from a memory `address` inside of the mapping."""
        if _WILL_NEED is None:
            return
        base, advise = address - self._address, self._mapping.madvise
        for start in starts:
            begin = base + start
            page = begin - begin % _PAGE
            advise(_WILL_NEED, page, begin + size - page)

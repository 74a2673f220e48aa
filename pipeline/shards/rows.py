"""Rows of a list of shards by their global number, whatever the shards belong to.

In: row indices, any number of them in any order.  Out: torch tensors, Arrow tables and plain Python values, in the
order of the indices.

Shape suffixes: N rows asked for, R rows of a shard, T tokens of a row, M tokens of a shard, D width of a column.
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.shards.format import EmbeddingForm, StorageDtype, shard_schema
from pipeline.shards.mapping import MappedShard

if TYPE_CHECKING:
    # Torch is loaded with the first tensor: processes that only decode or verify do without it.
    from torch import Tensor

    Indices = Sequence[int] | npt.NDArray[np.integer] | Tensor

Rows = npt.NDArray[np.int64]
VectorColumn = Literal["embedding", "text_embedding"]
# Rows a shard from which one NumPy call a shard, with its sorting, is cheaper than a slice a row: measured.
_DENSE = 16
# A copy of scattered rows that takes longer than this waited for the disk.
_WARM_S, _WARM_ROW_S = 5e-5, 3e-6
_Runs = Iterator[tuple[int, Rows, slice]]


class ShardRows(ABC):
    """Random access to the rows of some shards; what a subclass adds is where the shards come from."""

    def __init__(
        self,
        name: str,
        *,
        shard_rows: Sequence[int],
        width: int,
        text_width: int,
        dtype: StorageDtype,
        form: EmbeddingForm,
    ) -> None:
        self.name = name
        self.width = width
        self.text_width = text_width
        self.dtype: StorageDtype = dtype
        self.form: EmbeddingForm = form
        self._offsets: Rows = np.cumsum([0, *shard_rows], dtype=np.int64)
        self._schema = shard_schema(width, text_width, dtype, form=form)
        self._matrices: dict[tuple[int, VectorColumn], npt.NDArray[np.floating]] = {}
        self._views: dict[VectorColumn, list[memoryview | None]] = {}
        self._tokens: dict[int, tuple[npt.NDArray[np.floating], list[int]]] = {}
        self._cold = True

    @property
    @abstractmethod
    def splits(self) -> Mapping[str, int]:
        """Rows of each split."""

    @abstractmethod
    def _shard(self, shard: int) -> MappedShard:
        """A whole shard, memory-mapped from now on."""

    @abstractmethod
    def _passing_table(self, shard: int) -> pa.Table:
        """A whole shard, memory-mapped for as long as the caller holds it."""

    def _table(self, shard: int) -> pa.Table:
        return self._shard(shard).table

    def __len__(self) -> int:
        return int(self._offsets[-1])

    @property
    def shard_count(self) -> int:
        """How many shards there are."""
        return len(self._offsets) - 1

    def embeddings(self, indices: Indices, *, normalize: bool = True) -> Tensor:
        """`embedding` of the rows, float32 `[N, width]`, each of length 1 unless `normalize` is False."""
        self._check_form("vectors")
        return self._tensor("embedding", indices, normalize)

    def token_embeddings(self, indices: Indices, *, normalize: bool = True) -> tuple[Tensor, Tensor]:
        """Tokens of the rows, float32 `[N, T, width]`, and which of them there are, bool `[N, T]`; the others are zero.

        T is that of the longest row asked for; each token is of length 1 unless `normalize` is False.
        """
        import torch

        self._check_form("tokens")
        views = self._token_views(self._checked(indices))
        counts_N = np.array([len(view_TD) for view_TD in views], dtype=np.int64)
        padded_NTD = np.zeros((len(views), counts_N.max(initial=0), self.width), dtype=self.dtype)
        for padded_TD, view_TD in zip(padded_NTD, views, strict=True):
            padded_TD[: len(view_TD)] = view_TD
        mask_NT = torch.from_numpy(np.arange(padded_NTD.shape[1]) < counts_N[:, None])
        tokens_NTD = torch.from_numpy(padded_NTD).float()
        if normalize:
            torch.nn.functional.normalize(tokens_NTD, dim=2, out=tokens_NTD)
        return tokens_NTD, mask_NT

    def text_embeddings(self, indices: Indices, *, normalize: bool = True) -> Tensor:
        """Embedding of each row's first caption, float32 `[N, text_width]`, as in `embeddings`."""
        return self._tensor("text_embedding", indices, normalize)

    def captions(self, indices: Indices) -> list[tuple[str, ...]]:
        """All captions of the rows."""
        return [tuple(captions) for captions in self._values("caption", indices)]

    def ids(self, indices: Indices) -> list[str]:
        """Ids of the rows."""
        return self._values("id", indices)

    def attributes(self, indices: Indices) -> list[dict[str, str]]:
        """Attributes that the source carried."""
        return [dict(pairs) for pairs in self._values("attributes", indices)]

    def take(self, indices: Indices, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows as an Arrow table; `columns` keeps some of its columns (None: all)."""
        schema = self._projected(columns)
        order, runs = self._runs(self._checked(indices))
        pieces = [self.table(shard, columns).take(pa.array(local)) for shard, local, _ in runs]
        ascending = pa.concat_tables(pieces) if pieces else schema.empty_table()
        return ascending.take(pa.array(np.argsort(order))).replace_schema_metadata(None)

    def rows_of_split(self, split: str) -> Rows:
        """Global rows of a split, ascending."""
        if split not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}: it has {', '.join(self.splits) or 'no rows'}")
        found = [
            np.flatnonzero(pc.equal(self._table(shard)["split"], split).to_numpy()) + self._offsets[shard]
            for shard in range(self.shard_count)
        ]
        return np.concatenate(found)

    def table(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole shard, memory-mapped; `columns` keeps some of its columns."""
        names = self._projected(columns).names
        return self._table(shard).select(names)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Every shard in turn; none stays mapped, so that a pass over all rows needs the memory of one shard."""
        names = self._projected(columns).names
        for shard in range(self.shard_count):
            yield self._passing_table(shard).select(names)

    def vectors(self, shard: int, column: VectorColumn = "embedding") -> Tensor:
        """A column of vectors of a shard as it is stored, `[R, D]`, without a copy.

        Its memory is the read-only file: an operation that changes it in place ends the process.
        """
        import torch

        if column == "embedding":
            self._check_form("vectors")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(self._matrix(shard, column))

    def _tensor(self, column: VectorColumn, indices: Indices, normalize: bool) -> Tensor:
        import torch

        rows = self._checked(indices)
        scattered = 0 < len(rows) < _DENSE * self.shard_count
        gathered_ND = self._scattered(column, rows) if scattered else self._dense(column, rows)
        vectors_ND = torch.from_numpy(gathered_ND).float()
        return torch.nn.functional.normalize(vectors_ND, dim=1, out=vectors_ND) if normalize else vectors_ND

    def _scattered(self, column: VectorColumn, rows: Rows) -> npt.NDArray[np.floating]:
        """Few rows of many shards (an episode): a slice a row, all copied by one call, in the order asked for."""
        shards_N = np.searchsorted(self._offsets, rows, side="right") - 1
        width = self._width_of(column)
        size = width * np.dtype(self.dtype).itemsize
        starts_N = (rows - self._offsets[shards_N]) * size
        shards = shards_N.tolist()
        views = self._views.setdefault(column, [None] * self.shard_count)
        if self._cold:
            for shard in set(shards):
                starts = starts_N[shards_N == shard].tolist()
                self._shard(shard).read_ahead(self._matrix(shard, column).ctypes.data, starts, size)
        began = time.perf_counter()
        spans = zip(shards, starts_N.tolist(), (starts_N + size).tolist(), strict=True)
        copied = bytearray().join(
            [(views[shard] or self._bytes(shard, column))[start:stop] for shard, start, stop in spans]
        )
        # The hints cost as much as a warm copy, so they are given for as long as the disk is waited for.
        self._cold = time.perf_counter() - began > _WARM_S + _WARM_ROW_S * len(rows)
        return np.frombuffer(copied, dtype=self.dtype).reshape(len(rows), width)

    def _dense(self, column: VectorColumn, rows: Rows) -> npt.NDArray[np.floating]:
        """Many rows of few shards: one call a shard, in the order of the file, put in place by a second copy."""
        order, runs = self._runs(rows)
        ascending_ND = np.empty((len(rows), self._width_of(column)), dtype=self.dtype)
        for shard, local, positions in runs:
            # Rows were checked; any mode but "raise" lets NumPy write to `out` without a buffer in between.
            self._matrix(shard, column).take(local, 0, ascending_ND[positions], "clip")
        gathered_ND = np.empty_like(ascending_ND)
        gathered_ND[order] = ascending_ND
        return gathered_ND

    def _values(self, column: str, indices: Indices) -> list[Any]:
        rows = self._checked(indices)
        order, runs = self._runs(rows)
        values: list[Any] = [None] * len(rows)
        for shard, local, positions in runs:
            found = self._table(shard)[column].take(pa.array(local)).to_pylist()
            for position, value in zip(order[positions].tolist(), found, strict=True):
                values[position] = value
        return values

    def _checked(self, indices: Indices) -> Rows:
        values = np.asarray(indices)
        if values.size == 0:
            return np.empty(0, dtype=np.int64)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise ValueError(f"rows must be a flat list of integers, got {values.dtype} of shape {values.shape}")
        if values.min() < 0 or values.max() >= len(self):
            raise ValueError(f"rows must lie in 0..{len(self) - 1}, got {values.min()}..{values.max()}")
        return values.astype(np.int64, copy=False)

    def _runs(self, rows: Rows) -> tuple[npt.NDArray[np.intp], _Runs]:
        """What sorts the rows; and for each shard that holds some: it, their places in it, and among the sorted."""
        order = np.argsort(rows)
        ascending = rows[order]
        bounds = np.searchsorted(ascending, self._offsets)
        counts = np.diff(bounds)
        shards = np.flatnonzero(counts)
        local = ascending - np.repeat(self._offsets[shards], counts[shards])
        slices = map(slice, bounds[shards].tolist(), bounds[shards + 1].tolist())
        return order, ((shard, local[run], run) for shard, run in zip(shards.tolist(), slices, strict=True))

    def _matrix(self, shard: int, column: VectorColumn) -> npt.NDArray[np.floating]:
        """A column of vectors as `[R, D]`, without a copy."""
        matrix = self._matrices.get((shard, column))
        if matrix is None:
            chunks = self._table(shard)[column].chunks  # one, or none where every row was rejected
            width = self._width_of(column)
            flat = chunks[0].flatten().to_numpy(zero_copy_only=True) if chunks else np.empty(0, dtype=self.dtype)
            matrix = flat.reshape(-1, width)
            self._matrices[shard, column] = matrix
        return matrix

    def _token_views(self, rows: Rows) -> list[npt.NDArray[np.floating]]:
        """The tokens `[T, D]` of each row, without a copy."""
        shards_N = np.searchsorted(self._offsets, rows, side="right") - 1
        local_N = rows - self._offsets[shards_N]
        views = []
        for shard, row in zip(shards_N.tolist(), local_N.tolist(), strict=True):
            tokens_MD, starts = self._shard_tokens(shard)
            views.append(tokens_MD[starts[row] : starts[row + 1]])
        return views

    def _shard_tokens(self, shard: int) -> tuple[npt.NDArray[np.floating], list[int]]:
        """All tokens of a shard that has rows, without a copy, and where those of each row start."""
        tokens = self._tokens.get(shard)
        if tokens is None:
            (column,) = self._table(shard)["embedding"].chunks
            flat = column.values.flatten().to_numpy(zero_copy_only=True)
            tokens = flat.reshape(-1, self.width), column.offsets.to_pylist()
            self._tokens[shard] = tokens
        return tokens

    def _check_form(self, wanted: EmbeddingForm) -> None:
        if self.form == wanted:
            return
        raise ValueError(
            f"{self.name} holds tokens, not one vector a row: read them by token_embeddings, or extract it again with "
            f"the encoder's `tokens` left out"
            if wanted == "vectors"
            else f"{self.name} holds one vector a row, not tokens: read it by embeddings, or extract it again with the "
            f"encoder's `tokens` set"
        )

    def _width_of(self, column: VectorColumn) -> int:
        return self.width if column == "embedding" else self.text_width

    def _bytes(self, shard: int, column: VectorColumn) -> memoryview:
        """The same memory, byte by byte; kept with the others of the column."""
        view = self._matrix(shard, column).data.cast("B")
        self._views[column][shard] = view
        return view

    def _projected(self, columns: Sequence[str] | None) -> pa.Schema:
        if columns is None:
            return self._schema
        unknown = [column for column in columns if column not in self._schema.names]
        if unknown:
            raise ValueError(f"{self.name} has no column {unknown[0]!r}: it has {', '.join(self._schema.names)}")
        return pa.schema([self._schema.field(column) for column in columns])

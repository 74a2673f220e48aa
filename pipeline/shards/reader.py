"""Reading an embedding dataset: memory-mapped, by global row, verified before the first row of a shard is served.

In: a dataset's folder and row indices.  Out: torch tensors and plain Python values, in the order of the indices.

Shape suffixes: N rows asked for, R rows of a shard, D width of a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.shards.format import shard_schema
from pipeline.shards.manifest import FileEntry, Manifest, load_manifest
from pipeline.shards.writer import file_sha256

if TYPE_CHECKING:
    # Torch is loaded with the first tensor: processes that only decode or verify do without it.
    from torch import Tensor

    Indices = Sequence[int] | npt.NDArray[np.integer] | Tensor

_Rows = npt.NDArray[np.int64]


class EmbeddingDataset:
    """Random access to the rows of one embedding dataset; a copy sent to another process opens its files there."""

    def __init__(self, directory: Path, *, verify: bool = True) -> None:
        """Open the dataset; `verify` hashes each shard once, before its first row is served."""
        self.directory = directory
        self.manifest: Manifest = load_manifest(directory)
        self._verify = verify
        self._offsets: _Rows = np.cumsum([0, *(entry.rows for entry in self.manifest.shards)], dtype=np.int64)
        self._schema = shard_schema(self.manifest.width, self.manifest.text_width, self.manifest.dtype)
        self._tables: dict[int, pa.Table] = {}
        self._vectors: dict[tuple[int, str], npt.NDArray[np.floating]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.directory, self._verify)

    def __len__(self) -> int:
        return self.manifest.rows

    def embeddings(self, indices: Indices, *, normalize: bool = True) -> Tensor:
        """`embedding` of the rows, float32 `[N, width]`, each of length 1 unless `normalize` is False."""
        return self._gather_vectors("embedding", indices, normalize)

    def text_embeddings(self, indices: Indices, *, normalize: bool = True) -> Tensor:
        """Embedding of each row's first caption, float32 `[N, text_width]`, as in `embeddings`."""
        return self._gather_vectors("text_embedding", indices, normalize)

    def captions(self, indices: Indices) -> list[tuple[str, ...]]:
        """All captions of the rows."""
        return [tuple(captions) for captions in self._gather_values("caption", indices)]

    def ids(self, indices: Indices) -> list[str]:
        """Ids of the rows."""
        return self._gather_values("id", indices)

    def attributes(self, indices: Indices) -> list[dict[str, str]]:
        """Attributes that the source carried."""
        return [dict(pairs) for pairs in self._gather_values("attributes", indices)]

    def rows_of_split(self, split: str) -> _Rows:
        """Global rows of a split, ascending."""
        if split not in self.manifest.splits:
            raise ValueError(
                f"{self.directory} has no split {split!r}: it has {', '.join(self.manifest.splits) or 'no rows'}"
            )
        found = [
            np.flatnonzero(pc.equal(self._table(shard)["split"], split).to_numpy()) + self._offsets[shard]
            for shard in range(len(self.manifest.shards))
        ]
        return np.concatenate(found)

    def table(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole shard, memory-mapped; `columns` keeps some of them."""
        table = self._table(shard)
        return table if columns is None else table.select(list(columns))

    def _gather_vectors(self, column: str, indices: Indices, normalize: bool) -> Tensor:
        import torch

        rows = self._checked(indices)
        order = np.argsort(rows)
        ascending = rows[order]
        sorted_ND = np.empty((len(rows), self._schema.field(column).type.list_size), dtype=self.manifest.dtype)
        for shard, start, stop in self._runs(ascending):
            # Rows were checked; any mode but "raise" lets NumPy write to `out` without a buffer in between.
            local = ascending[start:stop] - self._offsets[shard]
            self._matrix(shard, column).take(local, axis=0, out=sorted_ND[start:stop], mode="clip")
        gathered_ND = np.empty_like(sorted_ND)
        gathered_ND[order] = sorted_ND
        vectors_ND = torch.from_numpy(gathered_ND).float()
        return torch.nn.functional.normalize(vectors_ND, dim=1) if normalize else vectors_ND

    def _gather_values(self, column: str, indices: Indices) -> list[Any]:
        rows = self._checked(indices)
        order = np.argsort(rows)
        ascending = rows[order]
        values: list[Any] = [None] * len(rows)
        for shard, start, stop in self._runs(ascending):
            local = pa.array(ascending[start:stop] - self._offsets[shard])
            found = self._table(shard)[column].take(local).to_pylist()
            for position, value in zip(order[start:stop].tolist(), found, strict=True):
                values[position] = value
        return values

    def _checked(self, indices: Indices) -> _Rows:
        values = np.asarray(indices)
        if values.size == 0:
            return np.empty(0, dtype=np.int64)
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"rows must be a flat list of integers, got {values.dtype} of shape {values.shape}")
        if values.min() < 0 or values.max() >= len(self):
            raise ValueError(f"rows must lie in 0..{len(self) - 1}, got {values.min()}..{values.max()}")
        return values.astype(np.int64)

    def _runs(self, ascending: _Rows) -> Iterator[tuple[int, int, int]]:
        """Shard and range of positions: one turn for each shard that holds some of the rows."""
        bounds = np.searchsorted(ascending, self._offsets)
        for shard in np.flatnonzero(np.diff(bounds)).tolist():
            yield shard, int(bounds[shard]), int(bounds[shard + 1])

    def _matrix(self, shard: int, column: str) -> npt.NDArray[np.floating]:
        """A column of vectors as `[R, D]`, without a copy."""
        matrix = self._vectors.get((shard, column))
        if matrix is None:
            array = self._table(shard)[column].chunk(0)
            matrix = array.flatten().to_numpy(zero_copy_only=True).reshape(len(array), array.type.list_size)
            self._vectors[shard, column] = matrix
        return matrix

    def _table(self, shard: int) -> pa.Table:
        if shard not in self._tables:
            self._tables[shard] = self._open(self.manifest.shards[shard])
        return self._tables[shard]

    def _open(self, entry: FileEntry) -> pa.Table:
        path = self.directory / entry.name
        problem = shard_problem(path, entry, hashed=self._verify)
        if problem is not None:
            raise ValueError(
                f"{path} {problem}: no row of it is served; `python -m jobs.verify_shards {self.directory}` shows all "
                f"damage, jobs.extract_embeddings repairs it"
            )
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if not table.schema.equals(self._schema) or table.num_rows != entry.rows:
            raise ValueError(f"{path} does not hold what the manifest says: extract the dataset again")
        return table


def shard_problem(path: Path, entry: FileEntry, *, hashed: bool) -> str | None:
    """What is wrong with a file that `entry` describes: None, or the end of a sentence."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"has {size} bytes instead of {entry.bytes}"
    if hashed and file_sha256(path) != entry.sha256:
        return "is damaged (its SHA-256 differs from the manifest's)"
    return None


def _reopen(directory: Path, verify: bool) -> EmbeddingDataset:
    return EmbeddingDataset(directory, verify=verify)

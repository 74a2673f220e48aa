"""Reading embedding datasets: memory-mapped, by global row, verified before the first row of a shard is served.

In: a dataset's folder on this machine or its URI elsewhere, and row indices.  Out: what `ShardRows` gives; a remote
shard is fetched when a row of it is first asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.shards.folder import open_folder
from pipeline.shards.manifest import Manifest
from pipeline.shards.mapping import MappedShard
from pipeline.shards.rows import ShardRows


class EmbeddingDataset(ShardRows):
    """Random access to the rows of one embedding dataset; a copy sent to another process opens its files there."""

    def __init__(self, location: Path | str, *, verify: bool = True, cache: Path | None = None) -> None:
        """Open the dataset in a folder, or at a URI such as `s3://bucket/folder`.

        `verify` hashes each shard once, before its first row is served (a fetched one is hashed in any case); `cache`
        is where fetched shards are kept (None: `folder.default_cache()`).
        """
        self._arguments = (location, verify, cache)
        self._folder = open_folder(location, cache)
        self._verify = verify
        self.manifest: Manifest = self._folder.manifest()
        self._shards: dict[int, MappedShard] = {}
        super().__init__(
            self._folder.name,
            shard_rows=[entry.rows for entry in self.manifest.shards],
            width=self.manifest.width,
            text_width=self.manifest.text_width,
            dtype=self.manifest.dtype,
            form=self.manifest.form,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, self._arguments

    @property
    def splits(self) -> Mapping[str, int]:
        """Rows of each split."""
        return self.manifest.splits

    def _shard(self, shard: int) -> MappedShard:
        if shard not in self._shards:
            self._shards[shard] = self._open(shard)
        return self._shards[shard]

    def _passing_table(self, shard: int) -> pa.Table:
        return self._shards[shard].table if shard in self._shards else self._open(shard).table

    def _open(self, shard: int) -> MappedShard:
        entry = self.manifest.shards[shard]
        path = self._folder.file(entry, hashed=self._verify)
        opened = MappedShard(path)
        if not opened.table.schema.equals(self._schema) or opened.table.num_rows != entry.rows:
            raise ValueError(f"{path} does not hold what the manifest says: extract the dataset again")
        return opened


class ConcatDataset(ShardRows):
    """Several datasets as one: the rows of the first, then those of the second, and so on."""

    def __init__(self, datasets: Sequence[EmbeddingDataset]) -> None:
        """Join datasets of equal widths and type, all of vectors or all of tokens."""
        if not datasets:
            raise ValueError("datasets: give at least one to concatenate")
        first = datasets[0]
        for dataset in datasets[1:]:
            for field in ("width", "text_width", "dtype", "form"):
                wanted, got = getattr(first, field), getattr(dataset, field)
                if got != wanted:
                    raise ValueError(
                        f"{dataset.name} cannot be joined to {first.name}: its {field} is {got}, not {wanted}; join "
                        f"datasets that were extracted with encoders of one width and one extract.storage_dtype"
                    )
        self.datasets = tuple(datasets)
        self._places = [(dataset, shard) for dataset in datasets for shard in range(dataset.shard_count)]
        super().__init__(
            " + ".join(dataset.name for dataset in datasets),
            shard_rows=[entry.rows for dataset in datasets for entry in dataset.manifest.shards],
            width=first.width,
            text_width=first.text_width,
            dtype=first.dtype,
            form=first.form,
        )

    @property
    def splits(self) -> Mapping[str, int]:
        """Rows of each split, over all datasets."""
        total: Counter[str] = Counter()
        for dataset in self.datasets:
            total.update(dataset.splits)
        return total

    def _shard(self, shard: int) -> MappedShard:
        dataset, local = self._places[shard]
        return dataset._shard(local)

    def _passing_table(self, shard: int) -> pa.Table:
        dataset, local = self._places[shard]
        return dataset._passing_table(local)


def _reopen(location: Path | str, verify: bool, cache: Path | None) -> EmbeddingDataset:
    return EmbeddingDataset(location, verify=verify, cache=cache)

"""Extraction: from a plan to embedding datasets on disk, whatever carries the work.

In: a configuration.  Out: one dataset a (modality, encoder), each with its manifest.

`Extraction` is the book-keeper: it knows what is left to do, counts what comes back, and completes datasets.
`ShardBuilder` does the work, in this process (`extract_locally`) or in many (`pipeline.runtime.ray_data`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.schema import EncoderConfig, ExperimentConfig, SignalKind
from pipeline.data.sources import Source, open_source
from pipeline.encoders.base import Encoder, TokenEncoder
from pipeline.shards.build import DecodedShard, ShardSpec, decode_shard, encode_shard, encode_texts
from pipeline.shards.format import FORMAT_VERSION, RejectedRow
from pipeline.shards.manifest import MANIFEST_FILE, REJECTED_FILE, FileEntry, Manifest, save_manifest
from pipeline.shards.plan import DatasetPlan, TargetPlan, plan_datasets
from pipeline.shards.writer import Shard, file_entry, finished_shards, remove_strays, write_bytes_atomic, write_shard

OnProgress = Callable[[str, str, int, int], None]
"""Called with dataset, encoder, source rows done and source rows in all; for each dataset and encoder first with those
that an earlier run left, before any work."""

Manifests = dict[tuple[str, str], Manifest]
"""By dataset and encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """Source rows to be decoded once, and the encoders that still lack them."""

    dataset: int
    """Position in the configuration."""
    spec: ShardSpec
    """The rows."""
    encoders: tuple[int, ...]
    """Positions in the dataset's configuration."""


class ShardBuilder:
    """Turns tasks into shards; sources and models stay open between calls, of the latest datasets only."""

    def __init__(self, config: ExperimentConfig, root: Path, plans: Sequence[DatasetPlan], device: str = "cpu") -> None:
        self._config, self._root, self._plans, self._device = config, root, plans, device
        # Shards come nearly in the order of the datasets: two datasets cover the change from one to the next.
        self._source = lru_cache(maxsize=2)(self._open_source)
        self._encoder = lru_cache(maxsize=2 * max(len(plan.targets) for plan in plans))(self._encoder_of)

    def decode(self, task: ShardTask) -> DecodedShard:
        """Read and decode the rows of a task."""
        return decode_shard(task.spec, self._source(task.dataset), self._plans[task.dataset].config.kind)

    def encode(self, task: ShardTask, decoded: DecodedShard) -> Iterator[tuple[int, Shard]]:
        """Write the task's shard of each encoder; yields the encoder's position and the shard."""
        dtype = self._config.extract.storage_dtype
        texts = encode_texts(decoded, self._text_encoder, dtype)
        for position in task.encoders:
            target = self._plans[task.dataset].targets[position]
            rows, rejected = encode_shard(decoded, self._encoder(task.dataset, position), texts, dtype)
            record = target.shard_record(task.spec, rejected)
            yield position, write_shard(target.directory, task.spec.index, rows, record)

    @cached_property
    def _text_encoder(self) -> Encoder:
        return _load_encoder(self._config.text_encoder, "text", self._root, self._device)

    def _open_source(self, dataset: int) -> Source:
        return open_source(self._plans[dataset].config.source, self._root)

    def _encoder_of(self, dataset: int, position: int) -> Encoder | TokenEncoder:
        plan = self._plans[dataset]
        config = plan.config.encoders[position]
        load = _load_encoder if config.tokens is None else _load_token_encoder
        return load(config, plan.config.kind, self._root, self._device)


@dataclass(slots=True)
class _Tally:
    """One (dataset, encoder): what is on disk so far."""

    shards: dict[int, Shard] = field(default_factory=dict)
    rows: int = 0
    rejected: int = 0

    def add(self, shards: Iterable[Shard]) -> None:
        for shard in shards:
            self.shards[shard.index] = shard
            self.rows += shard.record.stop - shard.record.start
            self.rejected += len(shard.record.rejected)

    def in_order(self) -> list[Shard]:
        return [self.shards[index] for index in sorted(self.shards)]

    def rejected_rows(self) -> list[RejectedRow]:
        return [row for shard in self.in_order() for row in shard.record.rejected]


class Extraction:
    """What is planned, what is done, what was rejected."""

    def __init__(self, config: ExperimentConfig, root: Path, out_dir: Path, on_progress: OnProgress) -> None:
        """Plan the work and take over the finished shards of an earlier run."""
        self.plans = plan_datasets(config, root, out_dir)
        self._config = config.extract
        self._on_progress = on_progress
        self._tallies: dict[tuple[int, int], _Tally] = {}
        self._manifests: Manifests = {}
        for dataset, plan in enumerate(self.plans):
            for position in range(len(plan.targets)):
                self._take_over(dataset, position)

    @property
    def tasks(self) -> list[ShardTask]:
        """What is left to do, in the order of the configuration."""
        tasks = []
        for dataset, plan in enumerate(self.plans):
            for spec in plan.specs:
                lacking = [p for p in range(len(plan.targets)) if spec.index not in self._tallies[dataset, p].shards]
                if lacking:
                    tasks.append(ShardTask(dataset=dataset, spec=spec, encoders=tuple(lacking)))
        return tasks

    def add(self, dataset: int, position: int, *shards: Shard) -> None:
        """Count shards that are on disk; the last one completes its dataset."""
        plan, tally = self.plans[dataset], self._tallies[dataset, position]
        target = plan.targets[position]
        name = (plan.config.name, target.encoder.config.name)
        tally.add(shards)
        self._on_progress(*name, tally.rows, plan.rows)
        if tally.rejected > self._config.max_rejected_fraction * plan.rows:
            raise ValueError(self._too_many(plan, target, tally.rejected_rows()))
        if len(tally.shards) == len(plan.specs):
            self._manifests[name] = self._complete(plan, target, tally)

    def manifests(self) -> Manifests:
        """All datasets, once every task is done."""
        assert not self.tasks
        return self._manifests

    def _take_over(self, dataset: int, position: int) -> None:
        plan = self.plans[dataset]
        target = plan.targets[position]
        try:
            target.directory.mkdir(parents=True, exist_ok=True)
            wanted = {spec.index: target.shard_record(spec) for spec in plan.specs}
            finished = finished_shards(target.directory, wanted)
            if len(finished) < len(plan.specs):
                # Until its last shard is there again, the dataset does not exist.
                (target.directory / MANIFEST_FILE).unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(
                f"embeddings cannot be written to {target.directory}: {error.strerror or error}"
            ) from error
        self._tallies[dataset, position] = _Tally()
        self.add(dataset, position, *finished.values())

    def _complete(self, plan: DatasetPlan, target: TargetPlan, tally: _Tally) -> Manifest:
        shards, rejected = tally.in_order(), tally.rejected_rows()
        splits: Counter[str] = Counter()
        for shard in shards:
            splits.update(shard.splits)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            dataset=plan.config.name,
            kind=plan.config.kind,
            content_key=target.content_key,
            source_fingerprint=plan.source_fingerprint,
            encoder=target.encoder.record(shards[0].width),
            text_encoder=plan.text_encoder.record(shards[0].text_width),
            dtype=self._config.storage_dtype,
            rows=sum(shard.entry.rows for shard in shards),
            splits=dict(splits),
            shards=tuple(shard.entry for shard in shards),
            rejected=_write_rejected(target.directory, rejected),
            rejected_by_reason=dict(Counter(row.reason for row in rejected)),
        )
        save_manifest(target.directory, manifest)
        remove_strays(target.directory, keep=[entry.name for entry in manifest.shards])
        return manifest

    def _too_many(self, plan: DatasetPlan, target: TargetPlan, rejected: list[RejectedRow]) -> str:
        _write_rejected(target.directory, rejected)
        reasons = Counter(row.reason for row in rejected).most_common(3)
        counts = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        return (
            f"dataset {plan.config.name!r}, encoder {target.encoder.config.name!r}: {len(rejected)} of {plan.rows} "
            f"rows were rejected ({counts}; first: {rejected[0].source}), more than extract.max_rejected_fraction = "
            f"{self._config.max_rejected_fraction:g} allows: mend the rows listed in "
            f"{target.directory / REJECTED_FILE}, or raise the limit"
        )


def extract_locally(
    config: ExperimentConfig, root: Path, out_dir: Path, *, on_progress: OnProgress, device: str = "cpu"
) -> Manifests:
    """Extract every (dataset, encoder) of the configuration in this process, without Ray."""
    extraction = Extraction(config, root, out_dir, on_progress)
    builder = ShardBuilder(config, root, extraction.plans, device)
    for task in extraction.tasks:
        for position, shard in builder.encode(task, builder.decode(task)):
            extraction.add(task.dataset, position, shard)
    return extraction.manifests()


def _load_encoder(config: EncoderConfig, kind: SignalKind, root: Path, device: str) -> Encoder:
    # Processes that only decode do without transformers, which takes seconds to import.
    from pipeline.encoders.registry import load_encoder

    return load_encoder(config, kind, root, device)


def _load_token_encoder(config: EncoderConfig, kind: SignalKind, root: Path, device: str) -> TokenEncoder:
    from pipeline.encoders.registry import load_token_encoder

    return load_token_encoder(config, kind, root, device)


def _write_rejected(directory: Path, rejected: list[RejectedRow]) -> FileEntry:
    schema = pa.schema(
        [("source_row", pa.int64()), *((name, pa.string()) for name in ("id", "source", "reason", "detail"))]
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rejected], schema=schema), sink)
    content = sink.getvalue()
    write_bytes_atomic(directory / REJECTED_FILE, content)
    return file_entry(REJECTED_FILE, len(rejected), content)

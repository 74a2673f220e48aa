"""The shard plan: which source rows go into which shard of which dataset, decided before any row is read.

In: a configuration, the sources' listings and the encoders' fingerprints.  Out: one `DatasetPlan` a modality.
It depends on nothing else, so that a rerun plans the same shards and knows them again by their content keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import DatasetConfig, EncoderConfig, ExperimentConfig, SignalKind
from pipeline.data.sources import Source, open_source
from pipeline.encoders.folder import used_revision
from pipeline.encoders.registry import encoder_fingerprint
from pipeline.shards.build import ShardSpec
from pipeline.shards.format import FORMAT_VERSION, RejectedRow, ShardRecord
from pipeline.shards.manifest import EncoderRecord

# Part of every content key: raise it with any change to decoding or checking that alters rows.
_CODE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """An encoder, before it is loaded."""

    config: EncoderConfig
    """How to load it."""
    fingerprint: str
    """What it computes."""

    def record(self, width: int) -> EncoderRecord:
        """What the manifest says of it."""
        config = self.config
        return EncoderRecord(
            name=config.name,
            id=config.path,
            revision=used_revision(config),
            fingerprint=self.fingerprint,
            width=width,
            tokens=config.tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlan:
    """One embedding dataset to be made: a modality through one encoder."""

    directory: Path
    """Where its files go."""
    encoder: ModelPlan
    """Model of its embeddings."""
    content_key: str
    """Names everything that decides its rows."""

    def shard_record(self, spec: ShardSpec, rejected: tuple[RejectedRow, ...] = ()) -> ShardRecord:
        """What a shard of this dataset is made from."""
        return ShardRecord(content_key=self.content_key, start=spec.start, stop=spec.stop, rejected=rejected)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPlan:
    """One modality with all its encoders."""

    config: DatasetConfig
    """Its configuration."""
    source_fingerprint: str
    """State of its source."""
    rows: int
    """Rows of its source."""
    text_encoder: ModelPlan
    """Model of the text embeddings."""
    specs: tuple[ShardSpec, ...]
    """Shards, the same for each encoder."""
    targets: tuple[TargetPlan, ...]
    """One for each encoder, in the configuration's order."""


def plan_datasets(config: ExperimentConfig, root: Path, out_dir: Path) -> list[DatasetPlan]:
    """Plan every modality; what cannot work (a missing table, column or model) fails here."""
    text_encoder = _model(config.text_encoder, "text", root)
    return [_plan(dataset, config, text_encoder, root, out_dir) for dataset in config.datasets]


def plan_identity(plans: Sequence[DatasetPlan]) -> str:
    """Changes with the content of any dataset to be made."""
    return fingerprint([(str(target.directory), target.content_key) for plan in plans for target in plan.targets])


def _plan(
    dataset: DatasetConfig, config: ExperimentConfig, text_encoder: ModelPlan, root: Path, out_dir: Path
) -> DatasetPlan:
    source = open_source(dataset.source, root)
    source_fingerprint = source.fingerprint()
    targets = []
    for encoder in dataset.encoders:
        model = _model(encoder, dataset.kind, root)
        content_key = fingerprint(
            {
                "format": [FORMAT_VERSION, _CODE_VERSION],
                "source": [dataset.kind, source_fingerprint],
                "encoders": [model.fingerprint, text_encoder.fingerprint],
                "dtype": config.extract.storage_dtype,
                "rows_per_shard": config.extract.rows_per_shard,
            }
        )
        directory = out_dir / dataset.name / encoder.name
        targets.append(TargetPlan(directory=directory, encoder=model, content_key=content_key))
    return DatasetPlan(
        config=dataset,
        source_fingerprint=source_fingerprint,
        rows=len(source),
        text_encoder=text_encoder,
        specs=tuple(_specs(source, config.extract.rows_per_shard)),
        targets=tuple(targets),
    )


def _model(config: EncoderConfig, kind: SignalKind, root: Path) -> ModelPlan:
    return ModelPlan(config=config, fingerprint=encoder_fingerprint(config, kind, root))


def _specs(source: Source, rows_per_shard: int) -> Iterator[ShardSpec]:
    repeated = list(repeated_rows(source.ids()))
    for index, start in enumerate(range(0, len(source), rows_per_shard)):
        stop = min(start + rows_per_shard, len(source))
        duplicates = tuple(row for row in repeated if start <= row < stop)
        yield ShardSpec(index=index, start=start, stop=stop, duplicates=duplicates)


def repeated_rows(ids: Iterable[str]) -> Iterator[int]:
    """Rows whose id occurred before."""
    seen: set[str] = set()
    for row, identity in enumerate(ids):
        if identity in seen:
            yield row
        seen.add(identity)

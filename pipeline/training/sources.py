"""Training rows of embedding datasets as episode sources.

In: `pipeline.shards` datasets.  Out: `SplitRows`, positions 0..n-1 of one split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.artifacts import embeddings_dir
from pipeline.config.schema import EncoderConfig, ExperimentConfig, Role, TrainingStage
from pipeline.encoders.registry import load_encoder
from pipeline.shards import EmbeddingDataset
from pipeline.signal import Signal
from pipeline.training.requirements import check_manifest

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitRows:
    """One split of one (modality, encoder) dataset."""

    modality: str
    """Name of the modality."""
    encoder: str
    """Name of the encoder."""
    split: str
    """Name of the split."""
    encoder_path: str
    """Model of the encoder."""
    dataset: EmbeddingDataset
    """The shards."""
    rows: Rows
    """Global rows of the split."""
    instruction_W: Tensor
    """Text embedding of the modality's instruction."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """E."""
        return self.dataset.manifest.width

    def embeddings(self, rows: Rows) -> Tensor:
        """L2-normalised `[n, E]`."""
        return self.dataset.embeddings(self.rows[rows])

    def text_embeddings(self, rows: Rows) -> Tensor:
        """L2-normalised `[n, W]`."""
        return self.dataset.text_embeddings(self.rows[rows])

    def captions(self, rows: Rows) -> list[tuple[str, ...]]:
        """Captions of each row."""
        return self.dataset.captions(self.rows[rows])

    def attributes(self, rows: Rows) -> list[dict[str, str]]:
        """Attributes of each row."""
        return self.dataset.attributes(self.rows[rows])

    def ids(self, rows: Rows) -> list[str]:
        """Sample ids."""
        return self.dataset.ids(self.rows[rows])

    def grouped_by(self, attribute: str | None) -> list[SplitRows]:
        """A modality of its own for each value of an attribute, in the values' order; all rows where it is None."""
        if attribute is None:
            return [self]
        attributes = self.attributes(np.arange(len(self), dtype=np.int64))
        if any(attribute not in row for row in attributes):
            raise ValueError(
                f"episodes.text_group={attribute!r}: rows of {self.modality!r} have no such attribute; add it to the "
                "source's attribute_fields, or set text_group to null"
            )
        values = np.array([row[attribute] for row in attributes])
        return [
            replace(self, modality=f"{self.modality}/{value}", rows=self.rows[values == value])
            for value in np.unique(values)
        ]


def list_ids(rows: SplitRows, positions: Rows, *, shown: int = 4) -> str:
    """Ids of some rows, for a message: the first ones and how many more there are."""
    more = f" and {len(positions) - shown} more" if len(positions) > shown else ""
    return ", ".join(rows.ids(positions[:shown])) + more


def instruction_embeddings(config: ExperimentConfig, root: Path) -> dict[str, Tensor]:
    """L2-normalised text embedding `[W]` of each modality's instruction."""
    encoder = load_encoder(config.text_encoder, "text", root)
    signals = [Signal(kind="text", text=dataset.instruction) for dataset in config.datasets]
    vectors = torch.nn.functional.normalize(torch.from_numpy(encoder.encode(signals)).float(), dim=-1)
    return {dataset.name: vector for dataset, vector in zip(config.datasets, vectors, strict=True)}


def open_splits(
    config: ExperimentConfig,
    root: Path,
    run_dir: Path,
    *,
    role: Role,
    splits: Sequence[str],
    stage: TrainingStage | None = None,
) -> list[SplitRows]:
    """The given splits of every (modality, encoder) of a role, in the order of the configuration.

    With `stage`, only those that this training stage reads.
    """
    instructions = instruction_embeddings(config, root)
    opened = []
    for dataset_config in config.datasets_of(role) if stage is None else config.read_by(stage, role):
        for encoder in dataset_config.encoders:
            opened += splits_of(
                EmbeddingDataset(embeddings_dir(run_dir, dataset_config, encoder)),
                config,
                modality=dataset_config.name,
                encoder=encoder,
                instruction_W=instructions[dataset_config.name],
                splits=splits,
            )
    return opened


def splits_of(
    dataset: EmbeddingDataset,
    config: ExperimentConfig,
    *,
    modality: str,
    encoder: EncoderConfig,
    instruction_W: Tensor,
    splits: Sequence[str],
) -> list[SplitRows]:
    """The given splits of one dataset, wherever it lies; `ValueError` where the configuration cannot read it."""
    check_manifest(dataset.manifest, config, modality=modality, encoder=encoder.name)
    return [
        SplitRows(
            modality=modality,
            encoder=encoder.name,
            encoder_path=encoder.path,
            split=split,
            dataset=dataset,
            rows=dataset.rows_of_split(split),
            instruction_W=instruction_W,
        )
        for split in splits
    ]

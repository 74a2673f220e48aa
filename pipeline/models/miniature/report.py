"""Whether the miniature suite is a benchmark: what its encoders tell, and what its language model repeats.

In: the suite's configuration (its signals written, its models built).  Out: figures; printing them is the job's part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from pipeline.config.schema import DatasetConfig, EncoderConfig, ExperimentConfig
from pipeline.data.decoders import decode
from pipeline.data.sample import BadRow
from pipeline.data.sources import open_source
from pipeline.encoders.registry import load_encoder
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.miniature.language_model import steering_accuracy
from pipeline.signal import Signal

STEERING_SAMPLES = 50
_PROBE_ROWS = 2000
_PROBE_STRENGTH = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A linear classifier of every attribute on one encoder's embeddings, scored on the test split."""

    modality: str
    """The encoded modality."""
    encoder: str
    """Name of the encoder."""
    width: int
    """Its width."""
    by_attribute: dict[str, float]
    """Test accuracy of each attribute."""

    @property
    def mean(self) -> float:
        """Mean over the attributes."""
        return float(np.mean(list(self.by_attribute.values())))


def linear_probes(config: ExperimentConfig, root: Path) -> Iterator[Probe]:
    """A probe of every encoder of every modality with attributes, one after the other."""
    for dataset in config.datasets:
        if dataset.role == "text":
            continue
        train, test = (_rows(dataset, root, split) for split in ("train", "test"))
        for encoder in dataset.encoders:
            yield _probe(dataset, encoder, root, train[:_PROBE_ROWS], test)


Row = tuple[Signal, dict[str, str]]


def _rows(dataset: DatasetConfig, root: Path, split: str) -> list[Row]:
    source = open_source(dataset.source, root)
    rows: list[Row] = []
    for sample in source.read(0, len(source)):
        if isinstance(sample, BadRow):
            raise ValueError(f"{sample.source}: {sample.reason}: generate the suite again")
        if sample.split == split:
            rows.append((decode(dataset.kind, sample.payload), sample.attributes))
    return rows


def _probe(dataset: DatasetConfig, config: EncoderConfig, root: Path, train: list[Row], test: list[Row]) -> Probe:
    encoder = load_encoder(config, dataset.kind, root)
    train_x, test_x = (_directions(encoder.encode([signal for signal, _ in rows])) for rows in (train, test))
    scores = {}
    for name in dataset.source.attribute_fields:
        train_y, test_y = ([values[name] for _, values in rows] for rows in (train, test))
        model = LogisticRegression(C=_PROBE_STRENGTH, max_iter=500).fit(train_x, train_y)
        scores[name] = float(model.score(test_x, test_y))
    return Probe(modality=dataset.name, encoder=config.name, width=encoder.width, by_attribute=scores)


def _directions(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Unit vectors, scaled so that a coordinate is about 1: what the shards' reader serves, in a probe's units."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float32] = unit * math.sqrt(vectors.shape[1])
    return scaled


def steering(config: ExperimentConfig, root: Path) -> dict[str, float]:
    """Share of attribute values that the language model repeats when its prompt states them, by domain."""
    llm = FrozenLLM(config.llm, root)
    return steering_accuracy(llm.model, llm.tokenizer, samples=STEERING_SAMPLES, seed=1)

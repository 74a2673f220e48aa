"""What can be refused before any process of a stage starts.

In: the configuration and the manifests of a run's embeddings.  Out: nothing, or a `ValueError`; sizes of splits, for
which no shard is opened and no model loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.config.artifacts import embeddings_dir
from pipeline.config.schema import DatasetConfig, EncoderConfig, ExperimentConfig
from pipeline.episodes.sampler import check_sizes
from pipeline.shards import Manifest, load_manifest
from pipeline.training.identity import StageName


def check_training(stage: StageName, config: ExperimentConfig, run_dir: Path) -> None:
    """Raise where a modality that meta-training reads has too few pairs for an episode.

    Groups of text are counted when their attributes are read, on the workers.
    """
    if stage != "meta_train":
        return
    sizes = {
        dataset.name: min(
            split_sizes(config, run_dir, dataset, encoder).get("train", 0) for encoder in dataset.encoders
        )
        for dataset in config.read_by("meta", "train")
    }
    check_sizes(list(sizes.values()), list(sizes), config.episodes)


def split_sizes(
    config: ExperimentConfig, run_dir: Path, dataset: DatasetConfig, encoder: EncoderConfig
) -> Mapping[str, int]:
    """Rows of each split of one (modality, encoder), by its manifest; raises where the configuration cannot read it."""
    manifest = load_manifest(embeddings_dir(run_dir, dataset, encoder))
    check_manifest(manifest, config, modality=dataset.name, encoder=encoder.name)
    return manifest.splits


def check_manifest(manifest: Manifest, config: ExperimentConfig, *, modality: str, encoder: str) -> None:
    """Raise where training and evaluation cannot read a dataset: tokens, or texts of another width."""
    if manifest.form != "vectors":
        raise ValueError(
            f"dataset {modality!r}, encoder {encoder!r}: it holds tokens, but training and evaluation take one "
            "vector a sample: remove `tokens` from the encoder and run jobs.extract_embeddings again"
        )
    if manifest.text_width != config.projector.input_width:
        raise ValueError(
            f"projector.input_width={config.projector.input_width}, but the text embeddings of {modality!r} have "
            f"width {manifest.text_width} ({config.text_encoder.path}): set projector.input_width to the text "
            "encoder's width, or extract the embeddings with the text encoder that the checkpoint was trained with"
        )

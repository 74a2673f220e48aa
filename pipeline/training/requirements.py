"""What can be refused before any process of a training stage starts.

In: the configuration and the manifests of a run's embeddings.  Out: nothing, or a `ValueError`.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config.artifacts import embeddings_dir
from pipeline.config.schema import ExperimentConfig
from pipeline.episodes.sampler import check_sizes
from pipeline.shards import load_manifest
from pipeline.training.identity import StageName


def check_training(stage: StageName, config: ExperimentConfig, run_dir: Path) -> None:
    """Raise where a modality that meta-training reads has too few pairs for an episode.

    Groups of text are counted when their attributes are read, on the workers.
    """
    if stage != "meta_train":
        return
    sizes = {
        dataset.name: min(
            load_manifest(embeddings_dir(run_dir, dataset, encoder)).splits.get("train", 0)
            for encoder in dataset.encoders
        )
        for dataset in config.read_by("meta", "train")
    }
    check_sizes(list(sizes.values()), list(sizes), config.episodes)

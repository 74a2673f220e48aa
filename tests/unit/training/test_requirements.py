"""What stages are refused by manifests alone: no shard is opened and no encoder is loaded to count rows."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.schema import ExperimentConfig
from pipeline.runtime.cells import places
from pipeline.training.requirements import split_sizes
from tests.tiny_project import note_rows, tiny_config
from tests.unit.shards.conftest import write_dataset

SPLITS = {"train": 5, "test": 2}


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    """Two modalities whose shards cannot be read and whose encoders do not exist."""
    config = tiny_config(tmp_path, notes=note_rows(4), tiles=4)
    for dataset in config.datasets:
        for encoder in dataset.encoders:
            folder = tmp_path / "embeddings" / dataset.name / encoder.name
            folder.mkdir(parents=True)
            splits = [split for split, count in SPLITS.items() for _ in range(count)]
            rows = [{"captions": ["a"], "split": split, "attributes": {}} for split in splits]
            write_dataset(folder, [rows], "float16", 0)
            for shard in folder.glob("*.arrow"):
                shard.unlink()
    return replace(
        config,
        projector=replace(config.projector, input_width=3),
        integrate=replace(config.integrate, shots=(2, 5, 6, "full")),
    )


def test_rows_are_counted_by_the_manifest(config: ExperimentConfig, tmp_path: Path) -> None:
    dataset = config.datasets[0]
    assert split_sizes(config, tmp_path, dataset, dataset.encoders[0]) == SPLITS


def test_places_need_manifests_only(config: ExperimentConfig, tmp_path: Path) -> None:
    found = places(config, tmp_path, tmp_path, "f")
    assert [(place.dataset, place.encoder, place.shots) for place in found] == [
        ("tiles", "image-a", 2), ("tiles", "image-a", 5), ("tiles", "image-a", "full")
    ]  # fmt: skip


def test_texts_of_another_width_are_refused(config: ExperimentConfig, tmp_path: Path) -> None:
    wide = replace(config, projector=replace(config.projector, input_width=99))
    with pytest.raises(ValueError, match=r"projector\.input_width=99, but the text embeddings of 'tiles' have width"):
        places(wide, tmp_path, tmp_path, "f")


def test_more_shots_than_pairs_are_refused(config: ExperimentConfig, tmp_path: Path) -> None:
    many = replace(config, integrate=replace(config.integrate, shots=(6, 7)))
    message = "tiles: 6, 7 shots asked for, but its train split has 5 rows; lower integrate.shots to at most 5"
    with pytest.raises(ValueError, match=re.escape(message)):
        places(many, tmp_path, tmp_path, "f")


def test_a_modality_without_test_rows_is_refused(config: ExperimentConfig, tmp_path: Path) -> None:
    folder = tmp_path / "embeddings" / "tiles" / "image-a"
    write_dataset(folder, [[{"captions": ["a"], "split": "train", "attributes": {}}] * 5], "float16", 0)
    with pytest.raises(ValueError, match="tiles: the test split has no rows; mark some with split `test`"):
        places(config, tmp_path, tmp_path, "f")

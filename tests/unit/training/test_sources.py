"""Rows of a split, and the modalities that an attribute makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.shards import EmbeddingDataset
from pipeline.training.sources import SplitRows
from tests.unit.shards.conftest import write_dataset


@pytest.fixture
def rows(tmp_path: Path) -> SplitRows:
    domains = ["sea", "air", "sea", "land", "air", "sea"]
    splits = ["train", "train", "test", "train", "train", "train"]
    table = [
        {"captions": [f"caption {row}"], "split": split, "attributes": {"domain": domain}}
        for row, (domain, split) in enumerate(zip(domains, splits, strict=True))
    ]
    write_dataset(tmp_path, [table[:4], table[4:]], "float32", seed=1)
    dataset = EmbeddingDataset(tmp_path)
    return SplitRows(
        modality="text",
        encoder="text-b",
        encoder_path="models/text-b",
        split="train",
        dataset=dataset,
        rows=dataset.rows_of_split("train"),
        instruction_W=torch.zeros(3),
    )


def test_each_value_is_a_modality_with_its_own_rows(rows: SplitRows) -> None:
    groups = {group.modality: group for group in rows.grouped_by("domain")}
    assert list(groups) == ["text/air", "text/land", "text/sea"]
    ids = {name: group.ids(np.arange(len(group), dtype=np.int64)) for name, group in groups.items()}
    assert ids == {"text/air": ["id 1", "id 4"], "text/land": ["id 3"], "text/sea": ["id 0", "id 5"]}


def test_without_an_attribute_all_rows_are_one(rows: SplitRows) -> None:
    (group,) = rows.grouped_by(None)
    assert group is rows


def test_an_unknown_attribute_is_named(rows: SplitRows) -> None:
    with pytest.raises(ValueError, match=r"episodes\.text_group='topic': rows of 'text' have no such attribute"):
        rows.grouped_by("topic")

"""Training reads the training rows of its own modalities: poison anywhere else changes no bit of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import ExperimentConfig, LLMConfig
from pipeline.encoders import huggingface
from pipeline.shards import extraction
from pipeline.training import sources
from pipeline.training.context import LocalContext
from pipeline.training.engine import LocalEngine
from pipeline.training.stages import WEIGHTS, run_stage
from tests.tiny_project import encoder, note_rows, tiny_config
from tests.unit.shards.conftest import WIDTHS, use_hash_encoders

STAGES = ("pretrain_projector", "meta_train")
Row = dict[str, Any]


@pytest.fixture
def train(tmp_path: Path, tiny_lm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bytes]]:
    """Both training stages from given rows, in a folder of their own; the bytes of their weights."""
    use_hash_encoders(monkeypatch)
    monkeypatch.setattr(sources, "load_encoder", huggingface.load_encoder)

    def run(
        name: str, rows: list[Row], *, after_extraction: Callable[[Path], None] = lambda _: None, tiles: int = 12
    ) -> list[bytes]:
        root, run_dir = tmp_path / name, tmp_path / name / "run"
        config = _config(root, rows, tiles, tiny_lm_dir)
        extraction.extract_locally(config, root, run_dir / "embeddings", on_progress=lambda *_: None)
        after_extraction(run_dir / "embeddings")
        for stage in STAGES:
            run_stage(stage, config, root, run_dir, LocalContext(), LocalEngine, stage_fingerprint="f")
        return [(run_dir / stage / WEIGHTS).read_bytes() for stage in STAGES]

    return run


def _config(root: Path, rows: list[Row], tiles: int, lm: Path) -> ExperimentConfig:
    """Notes through two encoders to train on, their texts as unpaired text, tiles held out."""
    config = tiny_config(root, notes=rows, tiles=tiles)
    notes = config.datasets[0]
    corpus = replace(notes, name="corpus", role="text", encoders=(encoder("text-a"),))
    return replace(
        config,
        datasets=(*config.datasets, corpus),
        llm=LLMConfig(path=str(lm), max_caption_tokens=12),
        projector=replace(config.projector, input_width=WIDTHS["text-a"], hidden_width=8, soft_tokens=2),
        hypernet=replace(config.hypernet, kind="equivariant", width=8, heads=1, rank=2),
        episodes=replace(config.episodes, text_group=None),
    )


def test_held_out_modalities_are_not_opened_by_training(train: Callable[..., list[bytes]]) -> None:
    def poison(embeddings: Path) -> None:
        files = [file for file in (embeddings / "tiles").rglob("*") if file.is_file()]
        assert files
        for file in files:
            file.write_bytes(b"poison")

    rows = note_rows(48)
    assert train("clean", rows) == train("poisoned", rows, after_extraction=poison) == train("more", rows, tiles=30)


def test_rows_of_other_splits_change_no_weight(train: Callable[..., list[bytes]]) -> None:
    rows = note_rows(48)
    poisoned = [
        row if row["split"] == "train" else row | {"text": f"huge {row['id']}", "caption": "poison", "side": "poison"}
        for row in rows
    ]
    assert poisoned != rows
    assert train("clean", rows) == train("poisoned", poisoned)


def test_the_poison_would_show(train: Callable[..., list[bytes]]) -> None:
    rows = note_rows(48)
    changed = [row | {"text": f"other {row['id']}"} if row["split"] == "train" else row for row in rows]
    assert all(one != other for one, other in zip(train("clean", rows), train("other", changed), strict=True))

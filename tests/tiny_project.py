"""A project small enough for tests: text rows in JSON Lines, PNG tiles beside a CSV, and models with random weights.

In: an empty folder.  Out: a configuration whose files and models lie in it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.load import load_config
from pipeline.config.schema import (
    DatasetConfig,
    EncoderConfig,
    ExperimentConfig,
    ExtractConfig,
    RuntimeConfig,
    SourceConfig,
)

WORDS = ["a", "red", "blue", "green", "circle", "square", "on", "the", "left", "right", "small", "large"]
CORNERS = ("left", "right")


def note_rows(count: int) -> list[dict[str, Any]]:
    """Rows of the dataset `notes`: text, one or two captions, two attributes, three splits."""
    rng = np.random.default_rng(count)
    rows = []
    for index in range(count):
        words = rng.choice(WORDS, size=int(rng.integers(2, 7)))
        caption = " ".join(words)
        rows.append(
            {
                "id": f"note-{index}",
                "text": f"{caption} {WORDS[index % len(WORDS)]}",
                "caption": [caption, caption.upper()] if index % 3 == 0 else caption,
                "side": str(rng.choice(CORNERS)),
                "size": "small" if index % 2 else "large",
                "split": ("train", "train", "validation", "test")[index % 4],
            }
        )
    return rows


def write_notes(folder: Path, rows: Sequence[dict[str, Any]]) -> SourceConfig:
    """Rows as JSON Lines with the text inline."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SourceConfig(
        kind="jsonl", path="notes.jsonl", payload="inline", payload_field="text", attribute_fields=("side", "size")
    )


def write_tiles(folder: Path, count: int) -> SourceConfig:
    """A CSV and one PNG a row; a bright half tells left from right."""
    rng = np.random.default_rng(count)
    (folder / "files").mkdir(parents=True, exist_ok=True)
    with (folder / "tiles.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "file", "caption", "side"])
        for index in range(count):
            side = CORNERS[index % 2]
            pixels = rng.integers(0, 60, size=(16, 16, 3), dtype=np.uint8)
            pixels[:, :8] += 120 if side == "left" else 0
            pixels[:, 8:] += 120 if side == "right" else 0
            Image.fromarray(pixels).save(folder / "files" / f"{index}.png")
            table.writerow([f"tile-{index}", f"files/{index}.png", f"a square on the {side}", side])
    return SourceConfig(kind="csv", path="tiles.csv", attribute_fields=("side",))


def encoder(name: str) -> EncoderConfig:
    """The encoder in the folder `models/<name>`."""
    return EncoderConfig(name=name, path=f"models/{name}", batch_size=16)


def save_text_model(folder: Path, *, width: int, seed: int) -> None:
    """A one-layer BERT over a dozen words."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.model_max_length = 32
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)


def save_image_model(folder: Path, *, width: int, seed: int) -> None:
    """A one-layer ViT over 16 x 16 pixels."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        image_size=16,
        patch_size=8,
    )
    ViTModel(config).save_pretrained(folder)


def tiny_config(
    root: Path, *, notes: Sequence[dict[str, Any]], tiles: int = 0, rows_per_shard: int = 8, limit: float = 0.5
) -> ExperimentConfig:
    """Sources below `root` and a configuration that reads them; `models/` is the caller's."""
    datasets = [
        DatasetConfig(
            name="notes",
            kind="text",
            role="train",
            source=write_notes(root, notes),
            encoders=(encoder("text-a"), encoder("text-b")),
        )
    ]
    if tiles:
        source = write_tiles(root, tiles)
        datasets.append(
            DatasetConfig(name="tiles", kind="image", role="held_out", source=source, encoders=(encoder("image-a"),))
        )
    return replace(
        load_config(preset="smoke", file=None, overrides=()),
        miniature=None,
        datasets=tuple(datasets),
        text_encoder=encoder("text-a"),
        extract=ExtractConfig(rows_per_shard=rows_per_shard, max_rejected_fraction=limit),
        runtime=RuntimeConfig(),
    )


def save_models(root: Path) -> None:
    """The three models that `tiny_config` names."""
    save_text_model(root / "models" / "text-a", width=16, seed=1)
    save_text_model(root / "models" / "text-b", width=24, seed=2)
    save_image_model(root / "models" / "image-a", width=12, seed=3)

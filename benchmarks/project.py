"""What the benchmarks run on: texts of realistic length, and a configuration that extracts them.

In: a number of rows and a folder.  Out: a JSON Lines source and an `ExperimentConfig` with absolute paths.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config.load import load_config
from pipeline.config.schema import (
    DatasetConfig,
    EncoderConfig,
    ExperimentConfig,
    ExtractConfig,
    RuntimeConfig,
    SignalKind,
    SourceConfig,
    TrackingConfig,
)
from pipeline.signal import Signal

WORDS = tuple(f"{a}{b}{c}" for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("n", "r", "st", "ck", "l", "m"))
"""The vocabulary of the texts."""


def draw_texts(count: int, seed: int = 0) -> list[str]:
    """Texts as long as captions are: 5 to 60 words, median about 14."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.exp(rng.normal(np.log(14), 0.5, size=count)), 5, 60).astype(int)
    return [" ".join(rng.choice(WORDS, size=length)) for length in lengths]


def text_project(
    folder: Path, texts: Sequence[str], encoder: EncoderConfig, *, rows_per_shard: int, threads: int = 1
) -> ExperimentConfig:
    """One dataset of texts that are their own captions, so that each is encoded once; one encoder actor."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as stream:
        for row, text in enumerate(texts):
            stream.write(json.dumps({"id": f"text-{row:07d}", "text": text, "split": "train"}) + "\n")
    source = SourceConfig(
        kind="jsonl",
        path=str(folder / "texts.jsonl"),
        payload="inline",
        payload_field="text",
        caption_field="text",
    )
    config = load_config(preset="smoke")
    return replace(
        config,
        miniature=None,
        datasets=(DatasetConfig(name="texts", kind="text", role="train", source=source, encoders=(encoder,)),),
        text_encoder=encoder,
        extract=ExtractConfig(rows_per_shard=rows_per_shard, actors=1),
        runtime=RuntimeConfig(threads_per_worker=threads),
        tracking=TrackingConfig(enabled=False),
    )


class DrawnEncoder:
    """Vectors drawn from the hash of a text: costs next to nothing, so that reading and writing can be seen."""

    def __init__(self, config: EncoderConfig, kind: SignalKind, device: str) -> None:
        self.width = config.width or 768
        self.fingerprint = f"drawn-{self.width}"

    def encode(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        """One normally distributed vector a text."""
        hashes = [hashlib.sha256((signal.text or "").encode()).digest() for signal in signals]
        seeds = [int.from_bytes(digest[:8], "big") for digest in hashes]
        return np.stack([np.random.default_rng(seed).standard_normal(self.width, dtype=np.float32) for seed in seeds])


def drawn(width: int) -> EncoderConfig:
    """The configuration of a `DrawnEncoder`."""
    return EncoderConfig(name="drawn", path="benchmarks.project:DrawnEncoder", width=width)

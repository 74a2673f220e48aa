"""Signals of every kind, and encoders loaded from a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.schema import EncoderConfig, SignalKind
from pipeline.encoders.base import Encoder
from pipeline.encoders.huggingface import load_encoder
from pipeline.signal import Signal
from tests.tiny_encoders import RATE_HZ

Load = Callable[..., Encoder]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the model saved in `tmp_path / "model"`."""

    def loader(kind: SignalKind, **options: object) -> Encoder:
        config = EncoderConfig(name="tiny", path="model", batch_size=3, **options)  # type: ignore[arg-type]
        return load_encoder(config, kind, tmp_path)

    return loader


def images(count: int, *, side: int = 16, channels: int = 3, dtype: str = "uint8") -> list[Signal]:
    rng = np.random.default_rng(1)
    shape = (side, side, channels)
    top = 255 if dtype == "uint8" else 9000
    return [Signal(kind="image", array=rng.integers(top, size=shape).astype(dtype)) for _ in range(count)]


def clips(count: int, *, frames: int = 4) -> list[Signal]:
    rng = np.random.default_rng(2)
    return [
        Signal(kind="video", array=rng.integers(255, size=(frames, 16, 16, 3)).astype(np.uint8)) for _ in range(count)
    ]


def waves(*lengths: int, rate_hz: float = RATE_HZ) -> list[Signal]:
    rng = np.random.default_rng(3)
    return [
        Signal(kind="audio", array=rng.normal(0, 0.1, length).astype(np.float32), rate_hz=rate_hz) for length in lengths
    ]


def series(*lengths: int) -> list[Signal]:
    rng = np.random.default_rng(4)
    return [Signal(kind="series", array=rng.normal(size=(length, 3)).astype(np.float32)) for length in lengths]


def molecules() -> list[Signal]:
    smiles = ("C", "CCO", "c1ccccc1Br", "CC(=O)Oc1ccccc1C(=O)O", "N#CC", "[Na+].[Cl-]", "CCCCCCCCCCCCCCCC(=O)O")
    return [Signal(kind="molecule", text=text) for text in smiles]

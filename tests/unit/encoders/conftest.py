"""Signals of every kind, and encoders loaded from a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.schema import EncoderConfig, SignalKind
from pipeline.encoders.base import Encoder
from pipeline.encoders.registry import load_encoder
from pipeline.signal import Signal
from tests.tiny_encoders import RATE_HZ

Load = Callable[..., Encoder]
Direct = Callable[[Signal], torch.Tensor]
Family = tuple[SignalKind, Sequence[Signal], Direct]
"""Kind, signals of different lengths, and the vector of each by a direct forward pass."""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the model saved in `tmp_path / "model"`."""

    def loader(kind: SignalKind, **options: object) -> Encoder:
        config = EncoderConfig(name="tiny", path="model", batch_size=3, **options)  # type: ignore[arg-type]
        return load_encoder(config, kind, tmp_path)

    return loader


def array(signal: Signal) -> Any:
    assert signal.array is not None
    return signal.array


@torch.inference_mode()
def assert_like_a_direct_forward_pass(encoder: Encoder, signals: Sequence[Signal], direct: Direct) -> None:
    """To 1e-5, whatever else is in the batch."""
    together = encoder.encode(signals)
    expected = torch.stack([direct(signal) for signal in signals]).numpy()
    assert together.dtype == np.float32
    assert together.shape == (len(signals), encoder.width)
    assert np.ptp(expected, axis=0).max() > 1e-3, "the signals must be told apart for the comparison to mean anything"
    np.testing.assert_allclose(together, expected, atol=1e-5, rtol=0)
    # Alone, in another order, in other company.
    alone = np.concatenate([encoder.encode([signal]) for signal in signals])
    np.testing.assert_allclose(alone, together, atol=1e-5, rtol=0)
    np.testing.assert_allclose(encoder.encode(signals[::-1])[::-1], together, atol=1e-5, rtol=0)


def texts(*values: str) -> list[Signal]:
    return [Signal(kind="text", text=value) for value in values]


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

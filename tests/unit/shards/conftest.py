"""Rows, an encoder that needs no library, and datasets written with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config.schema import EncoderConfig, ExperimentConfig, SignalKind
from pipeline.encoders import huggingface
from pipeline.shards import extraction, plan
from pipeline.signal import Signal
from tests.tiny_project import tiny_config

WIDTHS = {"text-a": 6, "text-b": 9, "image-a": 5}


class HashEncoder:
    """A vector drawn from the hash of the signal's content; some words stand for what encoders do wrong."""

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width, self.fingerprint = name, width, f"hash-{name}"
        self.calls: list[int] = []

    def encode(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        self.calls.append(len(signals))
        for signal in signals:
            if signal.text is not None and "refuse" in signal.text:
                raise ValueError("too long: 99 tokens")
        return np.stack([self._vector(signal) for signal in signals])

    def _vector(self, signal: Signal) -> npt.NDArray[np.float32]:
        content = signal.text.encode() if signal.text is not None else np.asarray(signal.array).tobytes()
        seed = int.from_bytes(hashlib.sha256(self.name.encode() + content).digest()[:8], "big")
        vector = np.random.default_rng(seed).normal(size=self.width).astype(np.float32)
        for word, value in (("nan", np.nan), ("infinity", np.inf), ("zero", 0.0), ("huge", 1e6)):
            if word in (signal.text or ""):
                vector[:] = value
        return vector


@pytest.fixture
def hash_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extraction without models on disk."""

    def load(config: EncoderConfig, kind: SignalKind, root: Path, device: str = "cpu") -> HashEncoder:
        return HashEncoder(config.name, WIDTHS[config.name])

    def identify(config: EncoderConfig, kind: SignalKind, root: Path) -> str:
        return f"hash-{config.name}-{kind}"

    monkeypatch.setattr(huggingface, "load_encoder", load)
    monkeypatch.setattr(plan, "encoder_fingerprint", identify)


def extract_rows(root: Path, rows: Sequence[dict[str, Any]], **options: Any) -> ExperimentConfig:
    """Extract `rows` below `root / "out"`; needs `hash_encoders`."""
    config = tiny_config(root, notes=rows, **options)
    extraction.extract_locally(config, root, root / "out", on_progress=lambda *_: None)
    return config


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}

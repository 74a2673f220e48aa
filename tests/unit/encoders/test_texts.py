"""Texts are embedded once each, in the order asked for, and not remembered without end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config.schema import EncoderConfig
from pipeline.encoders import texts
from pipeline.signal import Signal

CONFIG = EncoderConfig(name="letters", path="letters")


class Lengths:
    """A text's length, and who asked."""

    def __init__(self) -> None:
        self.asked: list[list[str | None]] = []

    def encode(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        self.asked.append([signal.text for signal in signals])
        return np.array([[len(signal.text or "")] for signal in signals], dtype=np.float32)


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> Lengths:
    encoder = Lengths()
    monkeypatch.setattr(texts, "load_encoder", lambda *_: encoder)
    return encoder


def test_each_text_is_embedded_once(lengths: Lengths) -> None:
    embed = texts.text_embedder(CONFIG, Path())
    assert not lengths.asked
    assert embed(["aa", "b", "aa", "ccc"]).ravel().tolist() == [2, 1, 2, 3]
    assert embed(["ccc", "dddd"]).ravel().tolist() == [3, 4]
    assert embed(["b"]).ravel().tolist() == [1]
    assert lengths.asked == [["aa", "b", "ccc"], ["dddd"]]


def test_what_is_remembered_is_bounded(lengths: Lengths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_KEPT", 2)
    embed = texts.text_embedder(CONFIG, Path())
    for text in ("a", "bb", "ccc"):
        embed([text])
    assert embed(["a", "dddd"]).ravel().tolist() == [1, 4]
    assert lengths.asked[-1] == ["a", "dddd"], "forgotten, so embedded again"

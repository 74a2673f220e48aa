"""Hidden layers, compute types, frames and rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.signal import Signal
from tests import tiny_encoders as tiny
from tests.unit.encoders.conftest import Load, array, clips, images, series, texts


@pytest.mark.parametrize("layer", [0, 1, -2])
def test_a_hidden_layer_is_pooled(layer: int, tmp_path: Path, load: Load) -> None:
    model, tokenizer = tiny.bert(tmp_path / "model")
    signals = texts("a red circle", "a", "blue square a red circle")
    vectors = load("text", layer=layer).encode(signals)
    for signal, vector in zip(signals, vectors, strict=True):
        with torch.no_grad():
            out = model(**tokenizer([signal.text], return_tensors="pt"), output_hidden_states=True)
        np.testing.assert_allclose(vector, out.hidden_states[layer][0].mean(dim=0).numpy(), atol=1e-5, rtol=0)


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    with pytest.raises(ValueError, match=r"layer is 9, but this model has hidden states 0 to 2, or -3 to -1"):
        load("image", layer=9)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_half_precision(dtype: str, tolerance: float, tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    full, half = load("image").encode(images(5)), load("image", dtype=dtype).encode(images(5))
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < tolerance


def test_frames_of_a_video_are_sampled(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    (clip,) = clips(1, frames=9)
    chosen = Signal(kind="video", array=array(clip)[[0, 4, 8]])
    np.testing.assert_allclose(load("video", frames=3).encode([clip]), load("video").encode([chosen]), atol=1e-6)


def test_series_are_brought_to_one_rate(tmp_path: Path, load: Load) -> None:
    tiny.patch_tst(tmp_path / "model")
    time_s = np.arange(32) / 100
    fast = np.stack([np.sin(2 * np.pi * 5 * time_s), np.cos(2 * np.pi * 5 * time_s), 9.8 + time_s], axis=1)
    signals = [Signal(kind="series", array=a.astype(np.float32), rate_hz=r) for a, r in ((fast, 100), (fast[::2], 50))]
    vectors = load("series", rate_hz=50.0).encode(signals)
    apart = load("series").encode(signals)
    assert np.abs(vectors[0] - vectors[1]).max() < 0.2 * np.abs(apart[0] - apart[1]).max()
    with pytest.raises(ValueError, match="a series without a rate cannot be brought to rate_hz 50"):
        load("series", rate_hz=50.0).encode(series(16))

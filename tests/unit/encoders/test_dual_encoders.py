"""Encoders of two modalities: each tower gives the vector of a direct forward pass, with the trained projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tests import tiny_encoders as tiny
from tests.unit.encoders.conftest import (
    Family,
    Load,
    array,
    assert_like_a_direct_forward_pass,
    images,
    texts,
    waves,
)  # fmt: skip

TEXTS = ("a red circle", "a", "blue square a red circle", "a blue square")


def siglip_image(folder: Path) -> Family:
    model, _, processor = tiny.siglip(folder)

    def forward(signal: Any) -> torch.Tensor:
        pixels = processor([array(signal)], return_tensors="pt")["pixel_values"]
        pooled: torch.Tensor = model.vision_model(pixels).pooler_output[0]
        return pooled

    return "image", images(4, side=16) + images(3, side=24), forward


def _padded_text(folder: Path, model: Any) -> Family:
    """As trained: texts are padded to the full length without a mask; the last position is the vector."""
    tokenizer = AutoTokenizer.from_pretrained(folder)  # the class that transformers reads the saved one with

    def forward(signal: Any) -> torch.Tensor:
        tokens = tokenizer([signal.text], padding="max_length", truncation=True, max_length=12, return_tensors="pt")
        pooled: torch.Tensor = model.text_model(tokens["input_ids"]).pooler_output[0]
        return pooled

    return "text", texts(*TEXTS), forward


def siglip_text(folder: Path) -> Family:
    return _padded_text(folder, tiny.siglip(folder)[0])


def siglip2_text(folder: Path) -> Family:
    return _padded_text(folder, tiny.siglip2(folder)[0])


def siglip2_image(folder: Path) -> Family:
    model, _, processor = tiny.siglip2(folder)

    def forward(signal: Any) -> torch.Tensor:
        pooled: torch.Tensor = model.get_image_features(**processor([array(signal)], return_tensors="pt")).pooler_output
        return pooled[0]

    wide = images(3, side=24)
    flat = [type(wide[0])(kind="image", array=array(signal)[:8]) for signal in wide]
    return "image", [*images(3, side=32), *wide, *flat], forward


def _clap_audio(folder: Path, fused: bool) -> Family:
    model, _, extractor = tiny.clap(folder, fused=fused)

    def window(wave: Any) -> torch.Tensor:
        features = extractor(wave, sampling_rate=tiny.RATE_HZ, return_tensors="pt")["input_features"]
        heard: torch.Tensor = model.get_audio_features(features, is_longer=torch.tensor([[False]])).pooler_output[0]
        return heard

    def forward(signal: Any) -> torch.Tensor:
        wave = array(signal)
        # A second is 8000 samples: two seconds and a half are three windows, evenly spaced over them.
        starts = [0, 6000, 12000] if len(wave) == 20000 else [0]
        return torch.stack([window(wave[start : start + 8000]) for start in starts]).mean(dim=0)

    return "audio", waves(8000, 3000, 20000, 5000, 20000, 3000), forward


def clap_audio(folder: Path) -> Family:
    return _clap_audio(folder, fused=False)


def clap_fused_audio(folder: Path) -> Family:
    return _clap_audio(folder, fused=True)


def clap_text(folder: Path) -> Family:
    model, tokenizer, _ = tiny.clap(folder)

    def forward(signal: Any) -> torch.Tensor:
        pooled = model.text_model(**tokenizer([signal.text], return_tensors="pt")).pooler_output
        return torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)[0]

    return "text", texts(*TEXTS), forward


FAMILIES = (siglip_image, siglip_text, siglip2_image, siglip2_text, clap_audio, clap_fused_audio, clap_text)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_vector_is_that_of_a_direct_forward_pass(family: Any, tmp_path: Path, load: Load) -> None:
    kind, signals, direct = family(tmp_path / "model")
    assert_like_a_direct_forward_pass(load(kind), signals, direct)


@pytest.mark.parametrize("fused", [False, True])
def test_long_clips_are_not_cut_at_random(fused: bool, tmp_path: Path, load: Load) -> None:
    """CLAP's own extractor draws from NumPy's global generator: which part of a long clip, and which clip is long."""
    tiny.clap(tmp_path / "model", fused=fused)
    encoder, signals = load("audio"), waves(24000, 9000, 2000)
    first = encoder.encode(signals)
    np.random.seed(123)
    np.testing.assert_array_equal(encoder.encode(signals), first)


def test_long_text_is_cut_to_what_clap_can_number(tmp_path: Path, load: Load) -> None:
    tiny.clap(tmp_path / "model")
    long, longer = load("text").encode(texts("a " * 33, "a " * 90))
    np.testing.assert_allclose(long, longer, atol=1e-5, rtol=0)

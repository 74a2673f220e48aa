"""Every family: our vector is that of a direct forward pass, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.signal import Signal
from tests import tiny_encoders as tiny
from tests.unit.encoders.conftest import (
    Direct,
    Family,
    Load,
    array,
    assert_like_a_direct_forward_pass,
    clips,
    images,
    molecules,
    series,
    waves,
)  # fmt: skip


def direct_pixels(parts: Any, pooled: Callable[[Any], torch.Tensor]) -> Direct:
    model, *_, processor = parts

    def forward(signal: Signal) -> torch.Tensor:
        frames = array(signal) if signal.kind == "video" else array(signal)[None]
        pixels = processor(list(frames), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        return pooled(model(pixels))

    return forward


def vit_image(folder: Path) -> Family:
    return "image", images(7), direct_pixels(tiny.vit(folder), lambda out: out.pooler_output[0])


def vit_without_pooler(folder: Path) -> Family:
    parts = tiny.vit(folder, pooler=False)
    return "image", images(7), direct_pixels(parts, lambda out: out.last_hidden_state[0].mean(dim=0))


def vit_multiband(folder: Path) -> Family:
    signals = images(7, channels=6, dtype="uint16")
    return "image", signals, direct_pixels(tiny.vit(folder, channels=6), lambda out: out.pooler_output[0])


def vit_that_resizes(folder: Path) -> Family:
    parts = tiny.vit(folder, resize=True)
    return "image", images(4, side=16) + images(3, side=24), direct_pixels(parts, lambda out: out.pooler_output[0])


def dinov2_image(folder: Path) -> Family:
    return "image", images(7), direct_pixels(tiny.dinov2(folder), lambda out: out.pooler_output[0])


def clip_image(folder: Path) -> Family:
    model, _, processor = tiny.clip(folder)

    def forward(signal: Signal) -> torch.Tensor:
        pixels = processor([array(signal)], return_tensors="pt")["pixel_values"]
        features: torch.Tensor = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        return features

    return "image", images(7, side=20), forward


def clip_text(folder: Path) -> Family:
    model, tokenizer, _ = tiny.clip(folder)
    texts = ["a red circle", "a", "blue square a red circle", "a blue square"]

    def forward(signal: Signal) -> torch.Tensor:
        out = model.text_model(**tokenizer([signal.text], return_tensors="pt"))
        features: torch.Tensor = model.text_projection(out.pooler_output)[0]
        return features

    return "text", [Signal(kind="text", text=text) for text in texts], forward


def frame_wise(folder: Path) -> Family:
    parts = tiny.vit(folder)
    return "video", clips(3, frames=5) + clips(2, frames=2), direct_pixels(parts, lambda o: o.pooler_output.mean(dim=0))


def videomae_clip(folder: Path) -> Family:
    model, processor = tiny.videomae(folder)

    def forward(signal: Signal) -> torch.Tensor:
        # Eight frames for a model of four: the first, the last and two evenly between.
        frames = array(signal)[[0, 2, 5, 7]] if len(array(signal)) == 8 else array(signal)
        pixels = processor(list(frames), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        hidden: torch.Tensor = model(pixels.reshape(1, 4, 3, 16, 16)).last_hidden_state[0].mean(dim=0)
        return hidden

    return "video", clips(4) + clips(3, frames=8), forward


def ast_audio(folder: Path) -> Family:
    model, extractor = tiny.ast(folder)

    def forward(signal: Signal) -> torch.Tensor:
        inputs = extractor(array(signal), sampling_rate=tiny.RATE_HZ, return_tensors="pt")
        pooled: torch.Tensor = model(**inputs).pooler_output[0]
        return pooled

    return "audio", waves(900, 1600, 900, 2400, 1234), forward


def whisper_audio(folder: Path) -> Family:
    model, extractor = tiny.whisper(folder)

    def forward(signal: Signal) -> torch.Tensor:
        inputs = extractor(array(signal), sampling_rate=tiny.RATE_HZ, return_tensors="pt")
        hidden: torch.Tensor = model.encoder(inputs["input_features"]).last_hidden_state[0].mean(dim=0)
        return hidden

    return "audio", waves(4000, 8000, 4000, 2400), forward


def _wav2vec2(folder: Path, norm: str) -> Family:
    model, extractor = tiny.wav2vec2(folder, norm=norm)

    def forward(signal: Signal) -> torch.Tensor:
        inputs = extractor(array(signal), sampling_rate=tiny.RATE_HZ, return_tensors="pt")
        hidden: torch.Tensor = model(inputs["input_values"]).last_hidden_state[0].mean(dim=0)
        return hidden

    return "audio", waves(4000, 1600, 4000, 2400, 1600), forward


def wav2vec2_masked(folder: Path) -> Family:
    return _wav2vec2(folder, "layer")


def wav2vec2_unmasked(folder: Path) -> Family:
    return _wav2vec2(folder, "group")


def patch_tst_series(folder: Path) -> Family:
    (model,) = tiny.patch_tst(folder)

    def forward(signal: Signal) -> torch.Tensor:
        values = torch.from_numpy(array(signal))
        missing = max(16 - len(values), 0)
        padded = torch.cat([torch.zeros(missing, 3), values])
        mask = torch.cat([torch.zeros(missing, 3), torch.ones_like(values)])
        # 40 rows: three windows of 16, evenly spaced over them.
        starts = [0, 12, 24] if len(values) == 40 else [0]
        windows = [
            model(padded[None, s : s + 16], past_observed_mask=mask[None, s : s + 16]).last_hidden_state[0].mean((0, 1))
            for s in starts
        ]
        return torch.stack(windows).mean(dim=0)

    return "series", series(16, 40, 16, 9, 40, 16), forward


def roberta_molecule(folder: Path) -> Family:
    model, tokenizer = tiny.roberta(folder)

    def forward(signal: Signal) -> torch.Tensor:
        hidden: torch.Tensor = model(**tokenizer([signal.text], return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        return hidden

    return "molecule", molecules(), forward


FAMILIES = (
    vit_image, vit_without_pooler, vit_multiband, vit_that_resizes, dinov2_image, clip_image, clip_text, frame_wise,
    videomae_clip, ast_audio, whisper_audio, wav2vec2_masked, wav2vec2_unmasked, patch_tst_series, roberta_molecule,
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_vector_is_that_of_a_direct_forward_pass(family: Any, tmp_path: Path, load: Load) -> None:
    kind, signals, direct = family(tmp_path / "model")
    assert_like_a_direct_forward_pass(load(kind), signals, direct)

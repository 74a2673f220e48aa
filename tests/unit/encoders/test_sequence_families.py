"""Speech, video, text and sensor models beyond the first of their kind: the vector is that of a direct forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny_encoders as tiny
from tests.unit.encoders.conftest import (
    Load,
    array,
    assert_like_a_direct_forward_pass,
    clips,
    series,
    texts,
    waves,
)  # fmt: skip


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_hubert(norm: str, tmp_path: Path, load: Load) -> None:
    model, extractor = tiny.wav2vec2(tmp_path / "model", norm=norm, hubert=True)

    def forward(signal: Any) -> torch.Tensor:
        inputs = extractor(array(signal), sampling_rate=tiny.RATE_HZ, return_tensors="pt")
        hidden: torch.Tensor = model(inputs["input_values"]).last_hidden_state[0].mean(dim=0)
        return hidden

    assert_like_a_direct_forward_pass(load("audio"), waves(4000, 1600, 4000, 2400, 1600), forward)


def test_timesformer(tmp_path: Path, load: Load) -> None:
    model, processor = tiny.timesformer(tmp_path / "model")

    def forward(signal: Any) -> torch.Tensor:
        frames = array(signal)[[0, 2, 5, 7]] if len(array(signal)) == 8 else array(signal)
        pixels = processor(list(frames), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        hidden: torch.Tensor = model(pixels.reshape(1, 4, 3, 16, 16)).last_hidden_state[0].mean(dim=0)
        return hidden

    assert_like_a_direct_forward_pass(load("video"), clips(4) + clips(3, frames=8), forward)


def test_patch_tsmixer(tmp_path: Path, load: Load) -> None:
    (model,) = tiny.patch_tsmixer(tmp_path / "model")

    def forward(signal: Any) -> torch.Tensor:
        values = torch.from_numpy(array(signal))
        missing = max(16 - len(values), 0)
        padded = torch.cat([torch.zeros(missing, 3), values])[None]
        mask = torch.cat([torch.zeros(missing, 3), torch.ones_like(values)])[None]
        hidden: torch.Tensor = model(padded, observed_mask=mask).last_hidden_state[0].mean(dim=(0, 1))
        return hidden

    assert_like_a_direct_forward_pass(load("series"), series(16, 9, 16, 12), forward)


@pytest.mark.parametrize(
    ("build", "pooling", "reduce"),
    [
        (tiny.bert, "mean", lambda hidden_TD: hidden_TD.mean(dim=0)),
        (tiny.bert, "cls", lambda hidden_TD: hidden_TD[0]),
        (tiny.bert, "last", lambda hidden_TD: hidden_TD[-1]),
        # The first token of a causal model sees nothing but itself.
        (tiny.gpt2, "mean", lambda hidden_TD: hidden_TD.mean(dim=0)),
        (tiny.gpt2, "last", lambda hidden_TD: hidden_TD[-1]),
    ],
    ids=["bert mean", "bert cls", "bert last", "gpt2 mean", "gpt2 last"],
)
def test_text(build: Any, pooling: str, reduce: Callable[..., torch.Tensor], tmp_path: Path, load: Load) -> None:
    model, tokenizer = build(tmp_path / "model")

    def forward(signal: Any) -> torch.Tensor:
        return reduce(model(**tokenizer([signal.text], return_tensors="pt")).last_hidden_state[0])

    signals = texts("a red circle", "a", "blue square a red circle", "a blue square", "red")
    assert_like_a_direct_forward_pass(load("text", pooling=pooling), signals, forward)

"""Tokens are those of a direct forward pass at the chosen layer, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pipeline.config.schema import EncoderConfig, SignalKind, TokensConfig
from pipeline.encoders import molecule_fingerprints
from pipeline.encoders.base import TokenEncoder
from pipeline.encoders.registry import encoder_fingerprint, load_encoder, load_token_encoder
from pipeline.encoders.token_reduction import reduce_tokens
from pipeline.signal import Signal
from tests import tiny_encoders as tiny
from tests.unit.encoders.conftest import Load, array, clips, images, series, texts, waves

Reduce = Literal["average", "sample", "merge"]
Tokens = Callable[..., TokenEncoder]
Direct = Callable[[Signal, int | None], torch.Tensor]
Family = tuple[SignalKind, Sequence[Signal], Direct]
"""Kind, signals of different lengths, and the tokens of each by a direct forward pass at a layer."""


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    """Load the model saved in `tmp_path / "model"` for its tokens."""

    def loader(kind: SignalKind, count: int = 1000, reduce: Reduce = "average", **options: Any) -> TokenEncoder:
        limit = TokensConfig(count=count, reduce=reduce)
        return load_token_encoder(
            EncoderConfig(name="tiny", path="model", batch_size=3, tokens=limit, **options), kind, tmp_path
        )

    return loader


def at(model: Any, layer: int | None, **inputs: torch.Tensor) -> torch.Tensor:
    """The model's final output or one of its layers, of one row."""
    out = model(**inputs, output_hidden_states=True)
    hidden: torch.Tensor = out.last_hidden_state if layer is None else out.hidden_states[layer]
    return hidden[0]


def vision(model: Any, processor: Any) -> Direct:
    def forward(signal: Signal, layer: int | None) -> torch.Tensor:
        frames = array(signal) if signal.kind == "video" else array(signal)[None]
        pixels = processor(list(frames), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        return torch.cat([at(model, layer, pixel_values=frame[None]) for frame in pixels])

    return forward


def clip_image(folder: Path) -> Family:
    model, _, processor = tiny.clip(folder)
    return "image", images(5, side=20), vision(model.vision_model, processor)


def dinov2_image(folder: Path) -> Family:
    return "image", images(5), vision(*tiny.dinov2(folder))


def frames_of_a_video(folder: Path) -> Family:
    return "video", clips(2, frames=5) + clips(2, frames=2), vision(*tiny.vit(folder))


def wav2vec2(folder: Path, norm: str) -> Family:
    model, extractor = tiny.wav2vec2(folder, norm=norm)

    def forward(signal: Signal, layer: int | None) -> torch.Tensor:
        inputs = extractor(array(signal), sampling_rate=tiny.RATE_HZ, return_tensors="pt")
        return at(model, layer, input_values=inputs["input_values"])

    return "audio", waves(4000, 1600, 4000, 2400, 1600), forward


def wav2vec2_masked(folder: Path) -> Family:
    return wav2vec2(folder, "layer")


def wav2vec2_unmasked(folder: Path) -> Family:
    return wav2vec2(folder, "group")


def whisper_audio(folder: Path) -> Family:
    """A second of 50 tokens, of which the signal fills a part."""
    model, extractor = tiny.whisper(folder)

    def forward(signal: Signal, layer: int | None) -> torch.Tensor:
        inputs = extractor(array(signal), sampling_rate=tiny.RATE_HZ, return_tensors="pt")
        heard = {4000: 25, 8000: 50, 2401: 16, 100: 1, 9000: 50}[len(array(signal))]
        return at(model.encoder, layer, input_features=inputs["input_features"])[:heard]

    return "audio", waves(4000, 8000, 2401, 100, 9000), forward


def bert_text(folder: Path) -> Family:
    model, tokenizer = tiny.bert(folder)

    def forward(signal: Signal, layer: int | None) -> torch.Tensor:
        return at(model, layer, **tokenizer([signal.text], return_tensors="pt"))

    return "text", texts("a red circle", "a", "blue square a red circle", "a blue square", "red"), forward


def patch_tst_series(folder: Path) -> Family:
    """Channel by channel four patches of four steps; those of the padding before a short series are left out."""
    (model,) = tiny.patch_tst(folder)

    def forward(signal: Signal, layer: int | None) -> torch.Tensor:
        values = torch.from_numpy(array(signal))
        missing = max(16 - len(values), 0)
        padded = torch.cat([torch.zeros(missing, 3), values])
        mask = torch.cat([torch.zeros(missing, 3), torch.ones_like(values)])
        starts = [0, 12, 24] if len(values) == 40 else [0]
        windows = [
            at(model, layer, past_values=padded[None, s : s + 16], past_observed_mask=mask[None, s : s + 16])
            for s in starts
        ]
        return torch.cat([window_CPD[:, missing // 4 :].flatten(0, 1) for window_CPD in windows])

    return "series", series(16, 40, 9, 3, 40), forward


FAMILIES = (
    clip_image, dinov2_image, frames_of_a_video, wav2vec2_masked, wav2vec2_unmasked, whisper_audio, bert_text,
    patch_tst_series,
)  # fmt: skip


@pytest.mark.parametrize("layer", [None, 0, -2], ids=["output", "first", "last but one"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@torch.inference_mode()
def test_tokens_are_those_of_a_direct_forward_pass(
    family: Any, layer: int | None, tmp_path: Path, tokens: Tokens
) -> None:
    kind, signals, direct = family(tmp_path / "model")
    if family is patch_tst_series and layer is not None:
        layer = -1  # it has one layer
    encoder = tokens(kind, layer=layer)
    together = encoder.encode_tokens(signals)
    for signal, ours in zip(signals, together, strict=True):
        expected = direct(signal, layer).numpy()
        assert ours.dtype == np.float32 and ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)
    assert np.ptp(np.concatenate(together), axis=0).max() > 1e-3
    # Alone, and in other company.
    for others in (
        [encoder.encode_tokens([signal])[0] for signal in signals],
        encoder.encode_tokens(signals[::-1])[::-1],
    ):
        for ours, alone in zip(together, others, strict=True):
            np.testing.assert_allclose(alone, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("reduce", ["average", "sample", "merge"])
@pytest.mark.parametrize("family", [dinov2_image, wav2vec2_masked, bert_text], ids=lambda family: family.__name__)
@torch.inference_mode()
def test_long_inputs_are_reduced_without_their_padding(
    family: Any, reduce: Any, tmp_path: Path, tokens: Tokens
) -> None:
    kind, signals, direct = family(tmp_path / "model")
    encoder = tokens(kind, count=3, reduce=reduce)
    config = TokensConfig(count=3, reduce=reduce)
    for signal, ours in zip(signals, encoder.encode_tokens(signals), strict=True):
        expected = reduce_tokens(direct(signal, None), config).numpy()
        assert len(ours) <= 3
        np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", [dinov2_image, wav2vec2_masked, bert_text], ids=lambda family: family.__name__)
def test_their_mean_is_the_mean_pooling(family: Any, tmp_path: Path, tokens: Tokens, load: Load) -> None:
    kind, signals, _ = family(tmp_path / "model")
    pooled = load(kind, pooling="mean").encode(signals)
    means = [found.mean(axis=0) for found in tokens(kind).encode_tokens(signals)]
    np.testing.assert_allclose(means, pooled, atol=1e-5)


def test_patches_of_models_with_a_cls_token_or_overlap(tmp_path: Path, tokens: Tokens) -> None:
    from transformers import PatchTSTConfig, PatchTSTModel

    torch.manual_seed(0)
    model = PatchTSTModel(
        PatchTSTConfig(
            num_input_channels=3, context_length=16, patch_length=6, patch_stride=4, d_model=16, num_hidden_layers=1,
            num_attention_heads=2, ffn_dim=32, use_cls_token=True,
        )
    )  # fmt: skip
    tiny.save(tmp_path / "model", model)
    # Patches of steps 2-7, 6-11 and 10-15; four observed steps lie in the last patch alone.
    counts = [len(found) for found in tokens("series").encode_tokens(series(16, 4, 5))]
    assert counts == [3 * (1 + 3), 3 * (1 + 1), 3 * (1 + 2)]


def test_half_precision_gives_float32_tokens(tmp_path: Path, tokens: Tokens) -> None:
    tiny.dinov2(tmp_path / "model")
    full, half = (tokens("image", dtype=dtype).encode_tokens(images(2))[1] for dtype in ("float32", "bfloat16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.2


def test_missing_weights_of_the_tokens_are_found_and_those_of_a_pooler_are_not_needed(
    tmp_path: Path, tokens: Tokens
) -> None:
    model, _ = tiny.vit(tmp_path / "model", pooler=False)
    assert tokens("image").width == 16
    state = {name: value for name, value in model.state_dict().items() if "layernorm.weight" not in name}
    assert len(state) == len(model.state_dict()) - 1
    model.save_pretrained(tmp_path / "model", state_dict=state)
    with pytest.raises(ValueError, match=r"the checkpoint lacks weights that the output needs: layernorm\.weight"):
        tokens("image")


def test_what_cannot_be_is_refused_at_set_up(tmp_path: Path, tokens: Tokens) -> None:
    tiny.bert(tmp_path / "model")
    with pytest.raises(ValueError, match="'tiny': pooling is cls, but `tokens` stores tokens that are not pooled"):
        tokens("text", pooling="cls")
    with pytest.raises(ValueError, match="layer is 7, but this model has hidden states 0 to 2"):
        tokens("text", layer=7)
    with pytest.raises(ValueError, match=r"width is 9 in the configuration, but .* gives 16 values \(tokens\)"):
        tokens("text", width=9)
    limit = TokensConfig(count=4)
    with pytest.raises(ValueError, match="gives tokens, where one vector is needed: remove `tokens`"):
        load_encoder(EncoderConfig(name="tiny", path="model", tokens=limit), "text", tmp_path)
    of_class = EncoderConfig(name="fp", path=f"{molecule_fingerprints.__name__}:MoleculeFingerprint", tokens=limit)
    with pytest.raises(ValueError, match="'fp': tokens is set, but .* is a class of the project, which gives vectors"):
        encoder_fingerprint(of_class, "molecule", tmp_path)


def test_the_fingerprint_tells_tokens_their_number_and_their_reduction_apart(
    tmp_path: Path, tokens: Tokens, load: Load
) -> None:
    tiny.bert(tmp_path / "model")
    variants = [None, *(TokensConfig(count=n, reduce=r) for n, r in ((4, "average"), (5, "average"), (4, "merge")))]  # type: ignore[arg-type]
    configs = [EncoderConfig(name="tiny", path="model", tokens=variant) for variant in variants]
    assert len({encoder_fingerprint(config, "text", tmp_path) for config in configs}) == 4
    encoder = tokens("text", count=4)
    assert encoder.fingerprint == encoder_fingerprint(configs[1], "text", tmp_path)
    assert encoder.fingerprint != load("text").fingerprint

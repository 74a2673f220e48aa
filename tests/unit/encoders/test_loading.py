"""What a user can get wrong in naming an encoder, and what pooling and preprocessing options do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.schema import EncoderConfig
from pipeline.encoders.folder import verify_checksums, write_checksums
from pipeline.encoders.registry import encoder_fingerprint, load_encoder
from pipeline.signal import Signal
from tests import tiny_encoders as tiny
from tests.unit.encoders.conftest import Load, images, molecules, waves


def test_an_unknown_path_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'models/no/such': no folder .*/models/no/such; give a folder, or a Hugging"):
        load_encoder(EncoderConfig(name="tiny", path="models/no/such"), "image", tmp_path)


def test_an_id_that_cannot_be_had_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'nobody/nothing'.* revision v1 .* can neither be downloaded nor found") as e:
        load_encoder(EncoderConfig(name="tiny", path="nobody/nothing", revision="v1"), "image", tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_one_clear_error(missing: str, tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(ValueError, match=r"^encoder 'tiny' cannot be loaded for image from /.*/model: \S") as error:
        load("image")
    assert "\n" not in str(error.value)


def test_a_pickled_checkpoint_is_refused(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "model" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match=r"cannot be loaded for image .*safetensors"):
        load("image")


def test_another_width_than_configured_is_refused(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    assert load("image", width=16).width == 16
    with pytest.raises(ValueError, match=r"width is 24 in the configuration, but the model in .* gives 16 values"):
        load("image", width=24)


def test_a_model_of_another_kind_is_refused(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    with pytest.raises(ValueError, match="encoder 'tiny' cannot be loaded for series from"):
        load("series")


def test_weights_that_the_output_needs_must_be_there(tmp_path: Path, load: Load) -> None:
    """transformers would fill the gap at random and go on."""
    tiny.vit(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    state = load_file(path)
    del state["embeddings.cls_token"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"the checkpoint lacks weights that the output needs: embeddings\.cls_token"):
        load("image")


def test_the_configured_pooling_is_used(tmp_path: Path, load: Load) -> None:
    model, tokenizer = tiny.roberta(tmp_path / "model")
    signals = molecules()
    for pooling, position in (("cls", 0), ("last", -1)):
        vectors = load("molecule", pooling=pooling).encode(signals)
        for signal, vector in zip(signals, vectors, strict=True):
            with torch.no_grad():
                hidden = model(**tokenizer([signal.text], return_tensors="pt")).last_hidden_state[0]
            np.testing.assert_allclose(vector, hidden[position].numpy(), atol=1e-5, rtol=0)


def test_a_sentence_transformers_folder_says_how_to_pool(tmp_path: Path, load: Load) -> None:
    tiny.roberta(tmp_path / "model")
    expected = load("molecule", pooling="cls").encode(molecules())
    (tmp_path / "model" / "1_Pooling").mkdir()
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    np.testing.assert_array_equal(load("molecule").encode(molecules()), expected)


def test_a_trained_pooler_of_a_text_model_is_not_its_sentence_vector(tmp_path: Path, load: Load) -> None:
    tiny.roberta(tmp_path / "model", pooler=True)
    mean = load("molecule", pooling="mean").encode(molecules())
    np.testing.assert_array_equal(load("molecule").encode(molecules()), mean)


def test_long_text_is_cut_to_what_the_model_can_number(tmp_path: Path, load: Load) -> None:
    tiny.roberta(tmp_path / "model")
    long, longer = (Signal(kind="molecule", text="C" * count) for count in (63, 400))
    vectors = load("molecule").encode([long, longer])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5, rtol=0)


def test_audio_of_another_rate_is_resampled(tmp_path: Path, load: Load) -> None:
    tiny.wav2vec2(tmp_path / "model", norm="layer")
    time_s = np.arange(4800) / 16000
    fast = np.sin(2 * np.pi * 440 * time_s).astype(np.float32)
    same = Signal(kind="audio", array=fast[::2], rate_hz=8000)
    vectors = load("audio").encode([Signal(kind="audio", array=fast, rate_hz=16000), same])
    far = load("audio").encode(waves(2400))
    assert np.abs(vectors[0] - vectors[1]).max() < 0.1 * np.abs(vectors[0] - far[0]).max()


def test_grey_and_transparent_images_become_rgb(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    (colour,) = images(1)
    (grey,) = images(1, channels=1)
    assert colour.array is not None
    assert grey.array is not None
    with_alpha = Signal(kind="image", array=np.concatenate([colour.array, colour.array[..., :1]], axis=-1))
    as_rgb = Signal(kind="image", array=np.repeat(grey.array, 3, axis=-1))
    vectors = load("image").encode([colour, with_alpha, grey, as_rgb])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    np.testing.assert_allclose(vectors[2], vectors[3], atol=1e-6)


def test_sixteen_bit_images_are_read_as_eight_bit_ones_by_a_model_of_those(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    (eight,) = images(1)
    assert eight.array is not None
    sixteen = Signal(kind="image", array=eight.array.astype(np.uint16) * 257)
    vectors = load("image").encode([eight, sixteen])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_the_wrong_number_of_bands_is_refused(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model", channels=6)
    with pytest.raises(ValueError, match=r"takes images of 6 channels, got one of shape \(16, 16, 3\)"):
        load("image").encode(images(1))


def test_multiband_images_are_resized_like_others(tmp_path: Path, load: Load) -> None:
    """A constant image stays what it is at any size; a row does not depend on its neighbours in the batch."""
    tiny.vit(tmp_path / "model", channels=6, resize=True)
    flat = [Signal(kind="image", array=np.full((side, side, 6), 7, np.uint8)) for side in (16, 40)]
    vectors = load("image").encode(flat)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_no_signals_give_no_vectors(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    assert load("image").encode([]).shape == (0, 16)


def test_the_fingerprint_follows_what_the_vectors_depend_on(tmp_path: Path, load: Load) -> None:
    tiny.vit(tmp_path / "model")
    config = EncoderConfig(name="tiny", path="model")
    first = encoder_fingerprint(config, "image", tmp_path)
    assert load("image").fingerprint == first
    renamed = EncoderConfig(name="other", path="model", batch_size=1)
    assert encoder_fingerprint(renamed, "image", tmp_path) == first
    pooled = EncoderConfig(name="tiny", path="model", pooling="mean")
    assert encoder_fingerprint(pooled, "image", tmp_path) != first
    settings = tmp_path / "model" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("0.4", "0.5"))
    assert encoder_fingerprint(config, "image", tmp_path) != first


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json has changed"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "added.json").write_text("{}"), "added.json is not listed"),
    ],
)
def test_a_folder_that_differs_from_its_checksums_is_refused(
    damage: object, problem: str, tmp_path: Path, load: Load
) -> None:
    folder = tmp_path / "model"
    tiny.vit(folder)
    write_checksums(folder)
    verify_checksums(folder)
    assert callable(damage)
    damage(folder)
    with pytest.raises(ValueError, match=problem):
        load("image")

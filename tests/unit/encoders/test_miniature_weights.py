"""The committed models of the miniature suite are whole, small, and load like any user's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from pipeline.config.presets import PRESETS
from pipeline.config.schema import EncoderConfig, SignalKind
from pipeline.data.decoders import decode
from pipeline.data.miniature.modalities import MODALITIES
from pipeline.encoders.folder import CHECKSUM_FILE, verify_checksums
from pipeline.encoders.registry import load_encoder
from pipeline.models.miniature.build import MODEL_NAMES, build_models
from pipeline.models.miniature.pretraining import pretraining_signals
from pipeline.models.miniature.training import WEIGHTS

MAX_BYTES = 12_000_000
PRESET = PRESETS["miniature"]()
ENCODERS: list[tuple[SignalKind, str, EncoderConfig]] = [
    (dataset.kind, dataset.name, encoder) for dataset in PRESET.datasets for encoder in dataset.encoders
]


def test_every_model_is_committed_and_nothing_else() -> None:
    assert sorted(folder.name for folder in WEIGHTS.iterdir()) == sorted(MODEL_NAMES)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_files_are_those_of_the_checksums(name: str) -> None:
    folder = WEIGHTS / name
    verify_checksums(folder)
    # Read here once more without our own code, as `sha256sum --check` would.
    listed = {}
    for line in (folder / CHECKSUM_FILE).read_text().splitlines():
        digest, _, file = line.partition("  ")
        listed[file] = digest
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    found.pop(CHECKSUM_FILE)
    assert found == listed


def test_the_weights_are_small_and_half_precision() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    for path in WEIGHTS.glob("*/model.safetensors"):
        with safe_open(path, framework="np") as weights:
            assert {weights.get_slice(key).get_dtype() for key in weights.keys()} <= {"F16", "I64"}  # noqa: SIM118


@pytest.mark.parametrize(("kind", "modality", "config"), ENCODERS, ids=[config.name for *_, config in ENCODERS])
def test_an_encoder_reads_its_modality(kind: SignalKind, modality: str, config: EncoderConfig, root: Path) -> None:
    """Vectors are finite, differ from sample to sample, and do not depend on their company."""
    encoder = load_encoder(config, kind, root)
    signals = [decode(kind, MODALITIES[modality].make(1, index).payload) for index in range(5)]
    vectors = encoder.encode(signals)
    assert np.isfinite(vectors).all()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (unit @ unit.T)[~np.eye(5, dtype=bool)].max() < 0.999
    alone = np.concatenate([encoder.encode([signal]) for signal in signals])
    np.testing.assert_allclose(alone, vectors, atol=1e-5, rtol=0)


def test_the_two_encoders_of_a_modality_have_different_widths(root: Path) -> None:
    common = PRESET.projector.input_width
    held_out: set[bool] = set()
    for dataset in PRESET.datasets:
        first, second = (load_encoder(encoder, dataset.kind, root).width for encoder in dataset.encoders)
        assert first != second
        if dataset.role == "held_out":
            held_out |= {first < common, second < common}
    assert held_out == {True, False}, "held-out widths lie below and above the common one"


@pytest.mark.parametrize("modality", ["imu", "digits"])
def test_encoders_are_trained_on_other_signals_than_the_suites(modality: str) -> None:
    assert PRESET.miniature is not None
    seed, kind = PRESET.miniature.seed, MODALITIES[modality].kind
    suite = {str(decode(kind, MODALITIES[modality].make(seed, index).payload).array) for index in range(50)}
    own = pretraining_signals(modality, 50)
    assert own.levels.shape[0] == 50
    assert not suite & {str(signal.array) for signal in own.signals}


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"models: expected some of lm, text-a, .*digits-b, got lmm"):
        list(build_models(["lm", "lmm"], processes=1))

"""Encoders that are classes of the project: the contract, and what breaks it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from pipeline.config.schema import EncoderConfig, SignalKind
from pipeline.encoders.registry import encoder_fingerprint, load_encoder
from pipeline.signal import Signal
from tests.unit.encoders.conftest import molecules, texts

MODULE = """
import numpy as np

class Lengths:
    width = 2
    fingerprint = "1"
    def __init__(self, config, kind, device):
        self.scale = config.options.get("scale", 1)
        if self.scale == 0:
            raise ValueError("scale must not be 0")
    def encode(self, signals):
        return np.array([[len(s.text) * self.scale, 1] for s in signals])

class Wrong(Lengths):
    width = 0

class Unnamed(Lengths):
    fingerprint = ""

class Flat(Lengths):
    def encode(self, signals):
        return np.zeros(3)
"""
RDKIT = "pipeline.encoders.molecule_fingerprints:MoleculeFingerprint"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_encoders_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_encoders_of_a_test", None)


def config_of(name: str, **options: object) -> EncoderConfig:
    path = name if ":" in name else f"own_encoders_of_a_test:{name}"
    return EncoderConfig(name="own", path=path, **options)  # type: ignore[arg-type]


def test_a_class_of_the_project_encodes(project: Path) -> None:
    config = config_of("Lengths", options={"scale": 3})
    encoder = load_encoder(config, "text", project)
    vectors = encoder.encode(texts("ab", "abc"))
    assert (encoder.name, encoder.width, vectors.dtype) == ("own", 2, np.float32)
    np.testing.assert_array_equal(vectors, [[6, 1], [9, 1]])
    assert encoder.encode([]).shape == (0, 2)
    assert encoder_fingerprint(config, "text", project) == encoder.fingerprint
    assert encoder_fingerprint(config_of("Lengths"), "text", project) != encoder.fingerprint


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (config_of("no_such_module_here:Lengths"), r"there is no no_such_module_here\.py below .* put the class into"),
        (config_of("json:JSONDecoder"), r"there is no json\.py below"),
        (config_of("Missing"), "names no class with a method `encode`; classes with one in .*: Lengths, Wrong"),
        (config_of("Wrong"), "has width 0: it must be the length of its vectors"),
        (config_of("Unnamed"), "has fingerprint '': it must be a non-empty string"),
        (config_of("Lengths", width=5), "has width 2, but the configuration says width 5"),
        (config_of("Lengths", options={"scale": 0}), "could not be made for text: ValueError: scale must not be 0"),
        (config_of("Lengths", rate_hz=5.0), "rate_hz is 5, but its signals are of kind text"),
        (config_of("Lengths", frames=5), "frames is 5, but its signals are of kind text"),
        (EncoderConfig(name="own", path="a/b", options={"x": 1}), "is a transformers model, which takes none"),
    ],
)
def test_what_breaks_the_contract_fails_at_set_up(config: EncoderConfig, problem: str, project: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        encoder_fingerprint(config, "text", project)


def test_vectors_of_another_shape_are_refused(project: Path) -> None:
    with pytest.raises(TypeError, match=r"encode gave float64 of shape \(3,\) for 1 signals"):
        load_encoder(config_of("Flat"), "text", project).encode(texts("a"))


def test_molecule_fingerprints_are_rdkits(tmp_path: Path) -> None:
    encoder = load_encoder(config_of(RDKIT, width=512, options={"radius": 3, "counts": True}), "molecule", tmp_path)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=3, fpSize=512)
    expected = [generator.GetCountFingerprintAsNumPy(Chem.MolFromSmiles(signal.text)) for signal in molecules()]
    np.testing.assert_array_equal(encoder.encode(molecules()), np.stack(expected))
    with pytest.raises(ValueError, match="not a SMILES string: 'C1C'"):
        encoder.encode([Signal(kind="molecule", text="C1C")])


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("image", {}, "it reads molecules, not image"),
        ("molecule", {"size": 3}, "unknown options size: valid ones are algorithm, radius, counts"),
        ("molecule", {"algorithm": "ecfp"}, "algorithm is 'ecfp', must be one of morgan, rdkit"),
    ],
)
def test_wrong_fingerprint_options(kind: SignalKind, options: dict[str, object], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        load_encoder(config_of(RDKIT, options=options), kind, tmp_path)

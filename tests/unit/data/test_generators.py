"""The signals show what their values say: measured directly for every attribute that has an order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from rdkit import Chem

from pipeline.data.decoders import decode
from pipeline.data.miniature import digits, molecules
from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS
from pipeline.data.miniature.modalities import MODALITIES

Array = npt.NDArray[np.float64]
SEED = 11
# Clips take the longest to make, speech is not measured.
SAMPLES = {"video": 140, "speech": 40}


@cache
def _examples(name: str) -> list[Example]:
    return [MODALITIES[name].make(SEED, index) for index in range(SAMPLES.get(name, 240))]


@cache
def _signals(name: str) -> list[Array]:
    arrays = (decode(MODALITIES[name].kind, example.payload).array for example in _examples(name))
    return [array.astype(np.float64) for array in arrays if array is not None]


def _white_area(picture: Array) -> float:
    return float((picture.min(axis=2) > 160).sum())


def _mean_hz(series: Array) -> float:
    """Centre of the slow part of the spectrum: it rises with the cadence, whatever the activity's harmonics."""
    power = np.abs(np.fft.rfft(series - series.mean(axis=0), axis=0))[1:21].sum(axis=1) ** 2
    return float((power * np.arange(1, 21)).sum() / power.sum() * 50 / len(series))


def _travel(video: Array) -> float:
    """How far the centre of what differs from the ground goes between the first and the last frame."""
    ground = np.median(video.reshape(-1, 3), axis=0)
    y, x = np.mgrid[0:32, 0:32]
    places = []
    for frame in (video[0], video[-1]):
        mass = np.maximum(np.abs(frame - ground).sum(axis=2) - 60, 0)
        places.append(np.array([(mass * x).sum(), (mass * y).sum()]) / mass.sum())
    return float(np.linalg.norm(places[1] - places[0]))


def _roofs(tile: Array) -> float:
    """Roofs reflect more short-wave than near infrared, and blue; no land does both."""
    return float(((tile[:, :, 5] > 1.35 * tile[:, :, 4]) & (tile[:, :, 0] > 0.45 * tile[:, :, 5])).sum())


def _loudest(wave: Array) -> float:
    return float(np.sqrt(np.mean(np.square(wave.reshape(-1, 200)), axis=1)).max())


ORDERED: list[tuple[str, str, Callable[[Array], float]]] = [
    ("image", "count", _white_area),
    ("audio", "loudness", _loudest),
    ("video", "speed", _travel),
    ("satellite", "density", _roofs),
    ("astronomy", "brightness", lambda picture: float(np.sinh(picture / 40).mean())),
    ("imu", "pace", _mean_hz),
]


@pytest.mark.parametrize(("name", "attribute", "measure"), ORDERED, ids=[f"{n}-{a}" for n, a, _ in ORDERED])
def test_ordered_values_are_ordered_in_the_signal(name: str, attribute: str, measure: Callable[[Array], float]) -> None:
    measured: dict[str, list[float]] = defaultdict(list)
    for example, signal in zip(_examples(name), _signals(name), strict=True):
        measured[example.values[attribute]].append(measure(signal))
    medians = [float(np.median(measured[value])) for value in GRAMMARS[name].values(attribute)]
    assert medians == sorted(medians)
    assert len(set(medians)) == len(medians)


def test_colour_is_the_figure_s() -> None:
    hues: dict[str, list[Array]] = defaultdict(list)
    for example, picture in zip(_examples("image"), _signals("image"), strict=True):
        spread = picture.max(axis=2) - picture.min(axis=2)
        hues[example.values["colour"]].append(picture[spread >= np.sort(spread.ravel())[-12]].mean(axis=0))
    for colour, channel in {"red": 0, "green": 1, "blue": 2}.items():
        assert np.argmax(np.median(hues[colour], axis=0)) == channel


def test_direction_is_where_the_object_goes() -> None:
    y, x = np.mgrid[0:32, 0:32]
    signs = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    checked = 0
    for example, video in zip(_examples("video"), _signals("video"), strict=True):
        sign = signs.get(example.values["direction"])
        if sign is None or example.values["speed"] != "racing":
            continue
        ground = np.median(video.reshape(-1, 3), axis=0)
        mass = np.maximum(np.abs(video - ground).sum(axis=3) - 60, 0)
        drift = np.array([(mass * axis).sum(axis=(1, 2)) / mass.sum(axis=(1, 2)) for axis in (x, y)])
        assert np.dot(drift[:, -1] - drift[:, 0], sign) > 10
        checked += 1
    assert checked >= 5


def test_pitch_of_a_tone() -> None:
    expected = dict(zip(GRAMMARS["audio"].values("pitch"), (98, 147, 220, 330, 494, 740), strict=True))
    checked = 0
    for example, wave in zip(_examples("audio"), _signals("audio"), strict=True):
        if example.values["source"] == "flute" and example.values["loudness"] in ("strong", "loud", "deafening"):
            peak_hz = np.argmax(np.abs(np.fft.rfft(wave))) * 2.0
            assert peak_hz == pytest.approx(expected[example.values["pitch"]], rel=0.1)
            checked += 1
    assert checked >= 5


def test_molecules_have_the_properties_that_they_are_said_to_have() -> None:
    for example in _examples("molecule"):
        assert isinstance(example.payload, str)
        assert molecules.describe(Chem.MolFromSmiles(example.payload)) == example.values


@pytest.mark.parametrize(
    ("smiles", "values"),
    [
        ("CCO", {"rings": "noncyclic", "group": "alcohol", "halogen": "halogen free", "mass": "featherlight"}),
        ("NC(=O)c1ccc(Cl)cc1", {"rings": "monocyclic", "group": "amide", "halogen": "chlorinated"}),
        ("COC(=O)c1cc(F)c2ccccc2c1Br", {"rings": "bicyclic", "group": "ester", "halogen": "mixed halogens"}),
        ("OCC(=O)C", {"rings": "noncyclic", "halogen": "halogen free"}),
    ],
)
def test_describing_known_molecules(smiles: str, values: dict[str, str]) -> None:
    described = molecules.describe(Chem.MolFromSmiles(smiles))
    assert {name: described[name] for name in values} == values
    assert ("group" in described) == ("group" in values)


def test_digits_are_the_real_scans_measured() -> None:
    grammar = GRAMMARS["digits"]
    examples = [digits.make(index) for index in range(digits.COUNT)]
    images = np.stack([_pixels(example) for example in examples])
    for name, measured in digits.measure(images).items():
        levels = np.array([grammar.level(name, example.values[name]) for example in examples])
        medians = [np.median(measured[levels == level]) for level in range(len(grammar.values(name)))]
        assert medians == sorted(medians)
        assert np.bincount(levels).min() > 0.9 * digits.COUNT / len(medians)
    assert examples[0].values["digit"] == "zero"
    assert np.bincount([grammar.level("digit", e.values["digit"]) for e in examples]).min() >= 170


def _pixels(example: Example) -> Array:
    array = decode("image", example.payload).array
    assert array is not None
    return array[:, :, 0].astype(np.float64)


@pytest.mark.parametrize("name", [name for name in MODALITIES if name not in ("text", "molecule", "digits")])
def test_nuisance_makes_equal_values_look_different(name: str) -> None:
    """Two samples with the same values of an attribute are never the same signal."""
    signals = _signals(name)[:40]
    assert len({signal.tobytes() for signal in signals}) == len(signals)
    assert all(signal.std() > 0 for signal in signals)
    assert len({signal.shape for signal in signals}) == 1

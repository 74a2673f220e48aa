"""Raw signals that the miniature suite's signal encoders are trained on.

In: the name of a modality and how many samples.  Out: decoded signals and the levels of their attributes.

They stand for the web-scale data of a real encoder: drawn by the modality's generator from a stream of their own, so
that no sample of the suite is among them. Digits are real scans: there they are warped copies of the training split's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pipeline.config.schema import MiniatureConfig
from pipeline.data.decoders import decode
from pipeline.data.miniature import digits
from pipeline.data.miniature.example import Example, example_rng
from pipeline.data.miniature.grammar import GRAMMARS
from pipeline.data.miniature.modalities import MODALITIES, splits
from pipeline.signal import Signal

_SEED = 977


@dataclass(frozen=True, slots=True)
class LabelledSignals:
    """Signals of one modality."""

    signals: Sequence[Signal]
    """Decoded."""
    levels: Tensor
    """Level of every attribute, int64 `[n, attributes]`, in the grammar's order."""


def pretraining_signals(modality: str, count: int) -> LabelledSignals:
    """`count` signals that the suite does not contain."""
    kind, grammar = MODALITIES[modality].kind, GRAMMARS[modality]
    examples = _warped_scans(count) if modality == "digits" else _fresh(modality, count)
    signals, levels = [], []
    for example in examples:
        signals.append(decode(kind, example.payload))
        levels.append([grammar.level(name, example.values[name]) for name in grammar.attribute_names])
    return LabelledSignals(signals, torch.tensor(levels))


def _fresh(modality: str, count: int) -> Iterator[Example]:
    if MiniatureConfig().seed == _SEED:
        raise ValueError(f"MiniatureConfig.seed: {_SEED} is the seed of the encoders' own data; choose another")
    for index in range(count):
        yield MODALITIES[modality].make(_SEED, index)


def _warped_scans(count: int) -> Iterator[Example]:
    """Scans of the training split, turned, sheared, stretched, shifted and inked anew, and then measured."""
    split = splits("digits", digits.COUNT, MiniatureConfig().seed)
    train = [index for index, name in enumerate(split) if name == "train"]
    for index in range(count):
        rng = example_rng(_SEED, "digits/warped", index)
        image, digit = digits.scan(train[index % len(train)])
        yield digits.example_of(_warped(image, rng), digit)


def _warped(image: digits.Scan, rng: np.random.Generator) -> digits.Scan:
    turn, shear = rng.normal(0, 0.05), rng.normal(0, 0.12)
    stretch = np.exp(rng.normal(0, 0.05, 2))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array([[1, 0], [shear, 1]])
    matrix = matrix / stretch[:, None]
    middle = (np.array(image.shape) - 1) / 2
    offset = middle - matrix @ (middle + rng.normal(0, 0.2, 2))
    warped = np.clip(ndimage.affine_transform(image, matrix, offset=offset, order=3), 0, None)
    # Interpolation spreads the ink and loses some of it at the borders: weigh it as before, within a few percent.
    gain = image.sum() / warped.sum() * np.exp(rng.normal(0, 0.1))
    inked: digits.Scan = np.clip(warped * gain * rng.normal(1, 0.05, image.shape), 0, 16)
    return inked

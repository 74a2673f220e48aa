"""What every generator makes: the payload of one sample and the attribute values that it shows.

A generator is a pure function of its random generator, so that sample `index` of a modality is the same in any
process and in any order.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Example:
    """One generated sample, before it has an id, a split and captions."""

    payload: bytes | str
    """The encoded file's bytes, or inline text."""
    values: dict[str, str]
    """Phrase of every attribute of the modality's grammar."""


def example_rng(seed: int, stream: str, index: int) -> np.random.Generator:
    """The generator of one draw; a function of its arguments only."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), index])

"""What every encoder offers, whatever library it comes from.

In: decoded signals.  Out: one float32 vector a signal, or its float32 tokens; not normalised (the reader of the shards
does that).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.signal import Signal


class Encoder(Protocol):
    """A frozen map from a signal to a vector."""

    @property
    def name(self) -> str:
        """Short name, as in the configuration."""

    @property
    def width(self) -> int:
        """Length of every vector."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors could: weights, revision, preprocessing, pooling, compute type."""

    def encode(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        """Vectors `[n, width]`; a row does not depend on the other rows of the call."""


@runtime_checkable
class TokenEncoder(Protocol):
    """A frozen map from a signal to some tokens."""

    @property
    def name(self) -> str:
        """Short name, as in the configuration."""

    @property
    def width(self) -> int:
        """Length of every token."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the tokens could: weights, revision, preprocessing, layer, reduction, compute type."""

    def encode_tokens(self, signals: Sequence[Signal]) -> list[npt.NDArray[np.float32]]:
        """Tokens `[t, width]` of each signal, `t` being its own; they do not depend on the other signals."""

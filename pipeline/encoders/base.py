"""What every encoder offers, whatever library it comes from.

In: decoded signals.  Out: one float32 vector a signal, not normalised (the reader of the shards does that).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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

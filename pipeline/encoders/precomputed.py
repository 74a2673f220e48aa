"""The encoder of ready embeddings: their vectors as they are.

In: signals of kind `vector`.  Out: the same numbers, once each has the configured width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import EncoderConfig
from pipeline.signal import Signal

PATH = "precomputed"
"""What a configuration calls it."""

# Part of every fingerprint: raise it with any change to this file that alters vectors.
_CODE_VERSION = 1


def check_settings(config: EncoderConfig) -> int:
    """The width; a missing one, or settings of models, are refused."""
    if config.width is None:
        raise ValueError(f"encoder {config.name!r}: {PATH!r} needs width: the length of the vectors in the source")
    given = [config.dtype, config.pooling, config.layer, config.frames, config.rate_hz, config.tokens]
    if given != ["float32", "auto", None, None, None, None] or config.options:
        raise ValueError(
            f"encoder {config.name!r}: {PATH!r} takes vectors as they are: remove dtype, pooling, layer, frames, "
            f"rate_hz, tokens and options"
        )
    return config.width


class Precomputed:
    """Passes vectors through."""

    def __init__(self, config: EncoderConfig) -> None:
        self.name = config.name
        self.width = check_settings(config)
        # The revision says which model made the vectors, where the user cares to tell.
        self.fingerprint = fingerprint([_CODE_VERSION, PATH, self.width, config.revision])

    def encode(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        """Vectors `[n, width]`; `ValueError` where one has another width."""
        vectors = np.empty((len(signals), self.width), dtype=np.float32)
        for row, signal in enumerate(signals):
            if signal.array is None or signal.array.shape != (self.width,):
                found = "no vector" if signal.array is None else f"{signal.array.size} numbers"
                raise ValueError(f"{found}, the encoder's width is {self.width}")
            vectors[row] = signal.array
        return vectors

"""A decoded signal: what a decoder hands to an encoder (neither side imports the other)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.schema import SignalKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One decoded sample; exactly one of `array` and `text` is set.

    Arrays: image `[H, W, C]`, video `[F, H, W, 3]`, audio `[T]` mono, series `[T, C]`, vector `[D]`.
    """

    kind: SignalKind
    """How the raw bytes were read."""
    array: npt.NDArray[np.generic] | None = None
    """Samples of an image, a video, an audio clip or a series, or a ready embedding."""
    text: str | None = None
    """Text of a `text` or `molecule` sample."""
    rate_hz: float | None = None
    """Sampling rate of audio and series, where the file tells it."""

"""What a signal holds, attributes or not, as a few numbers that an encoder can be asked to keep.

In: decoded signals of one kind.  Out: standardised features `[n, 128]`: random projections of pixels, of log spectra,
of a series' values, or of the pairs of neighbouring characters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.signal import Signal

FEATURES = 128
_SEED = 5
_WINDOW = 256
_FLOOR = 1e-3
_CHARACTERS = 128

Features = npt.NDArray[np.float32]


def content_features(signals: Sequence[Signal]) -> Tensor:
    """Features of every signal; each has mean 0 and variance 1 over the signals."""
    flat = np.stack([_flat(signal) for signal in signals])
    flat -= flat.mean(axis=0)
    projection = np.random.default_rng(_SEED).standard_normal((flat.shape[1], FEATURES), dtype=np.float32)
    features = flat @ projection
    return torch.from_numpy(features / features.std(axis=0))


def _flat(signal: Signal) -> Features:
    if signal.text is not None:
        codes = np.minimum(np.frombuffer(signal.text.encode("utf-8"), dtype=np.uint8), _CHARACTERS - 1).astype(int)
        pairs = np.bincount(codes[:-1] * _CHARACTERS + codes[1:], minlength=_CHARACTERS**2)
        return np.sqrt(pairs).astype(np.float32)
    if signal.array is None:
        raise ValueError(f"a {signal.kind} signal has neither text nor array")
    array = signal.array.astype(np.float32)
    if signal.kind == "audio":
        # The phase of a wave cannot be kept; how its spectrum moves can.
        frames = np.lib.stride_tricks.sliding_window_view(array, _WINDOW)[:: _WINDOW // 2]
        array = np.log(np.abs(np.fft.rfft(frames * np.hanning(_WINDOW))) + _FLOOR).astype(np.float32)
    return array.ravel()

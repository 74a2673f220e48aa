"""Audio and sensor series to model inputs: brought to one rate, and cut into what the model takes at once.

In: decoded signals `[T]` (audio) or `[T, C]` (series).  Out: a `Batch` of tensors for the model's forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.encoders.preprocess import Batch, array_of
from pipeline.signal import Signal

_MAX_RATE_FACTOR = 1000


class AudioPreprocessor:
    """Mono audio `[T]`, resampled to the model's rate."""

    def __init__(self, extractor: Any) -> None:
        self._extractor = extractor
        self._rate = int(extractor.sampling_rate)
        # Extractors of models that see 2-D features pad every clip to one length. Those of raw-wave models pad to the
        # longest clip, and say by `return_attention_mask` whether their model can leave the padding out.
        self._pads_to_longest = extractor.model_input_names[0] == "input_values" and not hasattr(
            extractor, "max_length"
        )
        self.same_length_only = self._pads_to_longest and not extractor.return_attention_mask
        # CLAP's extractor takes a random part of a longer clip: it never gets one.
        self._window: int | None = getattr(extractor, "nb_max_samples", None)
        # Whisper's pads to one length without a mask.
        self._padded_to: int | None = extractor.n_samples if hasattr(extractor, "nb_max_frames") else None

    def length(self, signal: Signal) -> int:
        """Samples."""
        return len(array_of(signal))

    def example(self) -> Signal:
        """A second of silence."""
        return Signal(kind="audio", array=np.zeros(self._rate, dtype=np.float32), rate_hz=self._rate)

    def __call__(self, signals: Sequence[Signal]) -> Batch:
        """Waves or spectrograms, as the model takes them."""
        waves = [self._resampled(signal) for signal in signals]
        if self._window is not None:
            return self._windowed(waves, self._window)
        padding = {"padding": True} if self._pads_to_longest else {}
        inputs = self._extractor(waves, sampling_rate=self._rate, return_tensors="pt", **padding)
        heard = None
        if self._padded_to is not None:
            heard = torch.tensor([min(len(wave) / self._padded_to, 1.0) for wave in waves], dtype=torch.float64)
        return Batch(dict(inputs), heard=heard)

    def _windowed(self, waves: Sequence[npt.NDArray[np.float32]], window: int) -> Batch:
        """One row a window; the windows of a clip cover it evenly."""
        cut = [[wave[start : start + window] for start in _window_starts(len(wave), window)] for wave in waves]
        rows = [row for windows in cut for row in windows]
        inputs = dict(self._extractor(rows, sampling_rate=self._rate, return_tensors="pt"))
        if "is_longer" in inputs:
            # The extractor declares a random clip of the batch longer where none is.
            inputs["is_longer"] = torch.zeros_like(inputs["is_longer"], dtype=torch.bool)
        return Batch(inputs, sample_of_row=_sample_of_row([len(windows) for windows in cut]))

    def _resampled(self, signal: Signal) -> npt.NDArray[np.float32]:
        wave = array_of(signal).astype(np.float32, copy=False)
        rate = int(signal.rate_hz or self._rate)
        if rate == self._rate:
            return wave
        from scipy.signal import resample_poly

        divisor = int(np.gcd(rate, self._rate))
        resampled: npt.NDArray[np.float32] = resample_poly(wave, self._rate // divisor, rate // divisor)
        return resampled.astype(np.float32)


class SeriesPreprocessor:
    """Series `[T, C]`, cut into windows of the model's context; a short one is padded on the left and masked."""

    same_length_only = False

    def __init__(
        self, *, context: int, channels: int, mask_name: str = "past_observed_mask", rate_hz: float | None = None
    ) -> None:
        self._context, self._channels, self._mask_name, self._rate_hz = context, channels, mask_name, rate_hz

    def length(self, signal: Signal) -> int:
        """Windows, before resampling."""
        return -(-len(array_of(signal)) // self._context)

    def example(self) -> Signal:
        """A window at rest."""
        at_rest = np.zeros((self._context, self._channels), dtype=np.float32)
        return Signal(kind="series", array=at_rest, rate_hz=self._rate_hz)

    def __call__(self, signals: Sequence[Signal]) -> Batch:
        """One row a window; the windows of a series cover it evenly."""
        windows: list[npt.NDArray[np.float32]] = []
        masks: list[npt.NDArray[np.float32]] = []
        counts: list[int] = []
        for signal in signals:
            series = self._resampled(self._checked(array_of(signal)), signal.rate_hz)
            missing = max(self._context - len(series), 0)
            mask = np.pad(np.ones_like(series), ((missing, 0), (0, 0)))
            series = np.pad(series, ((missing, 0), (0, 0)))
            starts = _window_starts(len(series), self._context)
            counts.append(len(starts))
            windows.extend(series[start : start + self._context] for start in starts)
            masks.extend(mask[start : start + self._context] for start in starts)
        inputs = {
            "past_values": torch.from_numpy(np.stack(windows)),
            self._mask_name: torch.from_numpy(np.stack(masks)),
        }
        return Batch(inputs, sample_of_row=_sample_of_row(counts))

    def _checked(self, series: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if series.ndim != 2 or series.shape[1] != self._channels or not len(series):
            raise ValueError(f"the model takes series [T, {self._channels}] with T > 0, got shape {series.shape}")
        return series.astype(np.float32, copy=False)

    def _resampled(self, series: npt.NDArray[np.float32], rate_hz: float | None) -> npt.NDArray[np.float32]:
        if self._rate_hz is None:
            return series
        if rate_hz is None:
            raise ValueError(
                f"a series without a rate cannot be brought to rate_hz {self._rate_hz:g}: give its file a "
                f"`time_s` column"
            )
        # Rates that are read from a clock are never round numbers.
        factor = Fraction(self._rate_hz / rate_hz).limit_denominator(_MAX_RATE_FACTOR)
        if factor == 1:
            return series
        if not 0 < factor <= _MAX_RATE_FACTOR:
            raise ValueError(f"{rate_hz:g} Hz is more than {_MAX_RATE_FACTOR} times off rate_hz {self._rate_hz:g}")
        from scipy.signal import resample_poly

        # Sensors do not rest at zero: what lies beyond the ends continues the line between them.
        resampled: npt.NDArray[np.float32] = resample_poly(
            series, factor.numerator, factor.denominator, axis=0, padtype="line"
        )
        return resampled.astype(np.float32)


def _window_starts(length: int, window: int) -> list[int]:
    """Where the fewest windows that cover `length` begin, evenly spaced; one where the signal is not longer."""
    count = max(-(-length // window), 1)
    starts: list[int] = np.linspace(0, max(length - window, 0), count).round().astype(int).tolist()
    return starts


def _sample_of_row(counts: Sequence[int]) -> torch.Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))

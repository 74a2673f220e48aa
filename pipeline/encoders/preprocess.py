"""Signals to model inputs, by the preprocessing that was saved with the model.

In: decoded signals of one kind.  Out: a `Batch` of tensors for the model's forward pass.

Nothing here looks at more than one signal at a time, except to pad; a signal's own content decides its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.encoders.images import prepare_images
from pipeline.signal import Signal


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs of one forward pass."""

    inputs: Mapping[str, Tensor]
    """Keyword arguments of the model."""
    sample_of_row: Tensor | None = None
    """Which sample a row belongs to, where samples take several rows (frames, windows): their vectors are averaged."""


class Preprocessor(Protocol):
    """Signals of one kind to batches."""

    same_length_only: bool
    """Whether only signals of equal length may share a batch, because the model cannot ignore padding exactly."""

    def length(self, signal: Signal) -> int:
        """What padding depends on; signals are batched in this order."""

    def example(self) -> Signal:
        """The plainest signal that the model accepts; it tells the output's width."""

    def __call__(self, signals: Sequence[Signal]) -> Batch:
        """Model inputs."""


def array_of(signal: Signal) -> npt.NDArray[Any]:
    """The array of a signal that must have one."""
    if signal.array is None:
        raise ValueError(f"a {signal.kind} signal needs an array, got text")
    return signal.array


class ImagePreprocessor:
    """Images `[H, W, C]` of any number of bands."""

    same_length_only = False

    def __init__(self, processor: Any, *, channels: int, image_size: tuple[int, int]) -> None:
        self._processor, self._channels, self._image_size = processor, channels, image_size

    def length(self, signal: Signal) -> int:
        """All images become the same size."""
        return 0

    def example(self) -> Signal:
        """A black image."""
        return Signal(kind="image", array=np.zeros((*self._image_size, self._channels), dtype=np.uint8))

    def __call__(self, signals: Sequence[Signal]) -> Batch:
        """`pixel_values` and whatever else the processor makes."""
        return Batch(prepare_images([array_of(signal) for signal in signals], self._processor, self._channels))


class VideoPreprocessor:
    """Clips `[F, H, W, 3]`: evenly spaced frames for a video model, every frame on its own for an image model."""

    same_length_only = False

    def __init__(
        self, processor: Any, *, channels: int, image_size: tuple[int, int], frames: int | None, input_name: str
    ) -> None:
        self._processor, self._channels, self._image_size = processor, channels, image_size
        self._frames, self._input_name = frames, input_name

    def length(self, signal: Signal) -> int:
        """Frames that go through the model."""
        return self._frames or len(array_of(signal))

    def example(self) -> Signal:
        """A black clip."""
        shape = (self._frames or 1, *self._image_size, self._channels)
        return Signal(kind="video", array=np.zeros(shape, dtype=np.uint8))

    def __call__(self, signals: Sequence[Signal]) -> Batch:
        """One row a clip, or one row a frame."""
        clips = [self._chosen(array_of(signal)) for signal in signals]
        inputs = prepare_images([frame for clip in clips for frame in clip], self._processor, self._channels)
        if self._frames is None:
            lengths = torch.tensor([len(clip) for clip in clips])
            return Batch(inputs, sample_of_row=torch.arange(len(clips)).repeat_interleave(lengths))
        # Image processors differ in whether they take a list of frames for one clip or for many images.
        pixels = inputs["pixel_values"]
        return Batch({self._input_name: pixels.reshape(len(clips), self._frames, *pixels.shape[-3:])})

    def _chosen(self, clip: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._frames is None or len(clip) == self._frames:
            return clip
        chosen: npt.NDArray[Any] = clip[np.linspace(0, len(clip) - 1, self._frames).round().astype(int)]
        return chosen


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

    def length(self, signal: Signal) -> int:
        """Samples."""
        return len(array_of(signal))

    def example(self) -> Signal:
        """A second of silence."""
        return Signal(kind="audio", array=np.zeros(self._rate, dtype=np.float32), rate_hz=self._rate)

    def __call__(self, signals: Sequence[Signal]) -> Batch:
        """Waves or spectrograms, as the model takes them."""
        waves = [self._resampled(signal) for signal in signals]
        padding = {"padding": True} if self._pads_to_longest else {}
        inputs = self._extractor(waves, sampling_rate=self._rate, return_tensors="pt", **padding)
        return Batch(dict(inputs))

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

    def __init__(self, *, context: int, channels: int) -> None:
        self._context, self._channels = context, channels

    def length(self, signal: Signal) -> int:
        """Windows."""
        return -(-len(array_of(signal)) // self._context)

    def example(self) -> Signal:
        """A window at rest."""
        return Signal(kind="series", array=np.zeros((self._context, self._channels), dtype=np.float32))

    def __call__(self, signals: Sequence[Signal]) -> Batch:
        """One row a window; the windows of a series cover it evenly."""
        windows: list[npt.NDArray[np.float32]] = []
        masks: list[npt.NDArray[np.float32]] = []
        counts: list[int] = []
        for signal in signals:
            series = self._checked(array_of(signal))
            missing = max(self._context - len(series), 0)
            mask = np.pad(np.ones_like(series), ((missing, 0), (0, 0)))
            series = np.pad(series, ((missing, 0), (0, 0)))
            counts.append(self.length(signal))
            starts = np.linspace(0, len(series) - self._context, counts[-1]).round().astype(int)
            windows.extend(series[start : start + self._context] for start in starts)
            masks.extend(mask[start : start + self._context] for start in starts)
        inputs = {
            "past_values": torch.from_numpy(np.stack(windows)),
            "past_observed_mask": torch.from_numpy(np.stack(masks)),
        }
        rows = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return Batch(inputs, sample_of_row=rows)

    def _checked(self, series: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if series.ndim != 2 or series.shape[1] != self._channels or not len(series):
            raise ValueError(f"the model takes series [T, {self._channels}] with T > 0, got shape {series.shape}")
        return series.astype(np.float32, copy=False)


class TextPreprocessor:
    """Text and molecules (SMILES), by the model's tokenizer; padding is masked."""

    same_length_only = False

    def __init__(self, tokenizer: Any, *, max_tokens: int, example: Signal) -> None:
        self._tokenizer, self._max_tokens, self._example = tokenizer, max_tokens, example

    def length(self, signal: Signal) -> int:
        """Characters, a good enough order."""
        return len(signal.text or "")

    def example(self) -> Signal:
        """One short text."""
        return self._example

    def __call__(self, signals: Sequence[Signal]) -> Batch:
        """Token ids and their mask."""
        texts = [signal.text for signal in signals]
        if any(text is None for text in texts):
            raise ValueError("a text or molecule signal needs text, got an array")
        return Batch(
            dict(
                self._tokenizer(texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt")
            )
        )

"""Images, videos and texts to model inputs, by the preprocessing that was saved with the model.

In: decoded signals of one kind.  Out: a `Batch` of tensors for the model's forward pass.

Nothing here looks at more than one signal at a time, except to pad; a signal's own content decides its inputs.
"""

from __future__ import annotations

import sys
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
    heard: Tensor | None = None
    """Share of each row that is signal, from its start, where a model's window is longer and cannot be masked."""


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
    """Clips `[F, H, W, 3]`: a video model takes `frames` evenly spaced ones at once, an image model each on its own.

    An image model sees every frame, or `sampled` evenly spaced ones.
    """

    same_length_only = False

    def __init__(
        self,
        processor: Any,
        *,
        channels: int,
        image_size: tuple[int, int],
        frames: int | None,
        sampled: int | None,
        input_name: str,
    ) -> None:
        if frames is not None and sampled not in (None, frames):
            raise ValueError(f"frames is {sampled}, but this video model takes {frames} at once: leave it out")
        self._processor, self._channels, self._image_size = processor, channels, image_size
        self._frames, self._sampled, self._input_name = frames, sampled, input_name

    def length(self, signal: Signal) -> int:
        """Frames that go through the model."""
        return self._frames or min(self._sampled or sys.maxsize, len(array_of(signal)))

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
        wanted = self._frames or min(self._sampled or len(clip), len(clip))
        if len(clip) == wanted:
            return clip
        chosen: npt.NDArray[Any] = clip[np.linspace(0, len(clip) - 1, wanted).round().astype(int)]
        return chosen


class TextPreprocessor:
    """Text and molecules (SMILES), by the model's tokenizer.

    Padding is masked, unless the model was trained on texts that are all padded to `max_tokens` and read as they are.
    """

    same_length_only = False

    def __init__(self, tokenizer: Any, *, max_tokens: int, example: Signal, always_padded: bool = False) -> None:
        self._tokenizer, self._max_tokens, self._example = tokenizer, max_tokens, example
        self._always_padded = always_padded
        if not always_padded:
            # Models that number positions absolutely would number them from the padding on.
            tokenizer.padding_side = "right"
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token

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
        tokens = self._tokenizer(
            texts,
            padding="max_length" if self._always_padded else "longest",
            truncation=True,
            max_length=self._max_tokens,
            return_attention_mask=not self._always_padded,
            return_tensors="pt",
        )
        return Batch(dict(tokens))

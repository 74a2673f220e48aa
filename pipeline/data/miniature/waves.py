"""Building blocks of the two sound modalities: noise shaping, levels, and WAV files."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile

RATE_HZ = 8000
SAMPLES = 4000
Wave = npt.NDArray[np.float64]
"""A `[T]` signal."""


def rms(wave: Wave) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(wave))))


def decibels(level_db: float) -> float:
    """The amplitude factor of a level."""
    return float(10.0 ** (level_db / 20.0))


def smooth(wave: Wave, length: int) -> Wave:
    """Moving average over `length` samples: rounds the edges of an envelope."""
    padded = np.pad(wave, (length // 2, length - 1 - length // 2), mode="edge")
    total = np.concatenate([[0.0], np.cumsum(padded)])
    averaged: Wave = (total[length:] - total[:-length]) / length
    return averaged


def room_noise(count: int, rng: np.random.Generator) -> Wave:
    """Noise of unit level with a random tilt towards low frequencies."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.arange(1, len(spectrum) + 1) / len(spectrum)
    noise = np.fft.irfft(spectrum * frequency ** -rng.uniform(0.0, 0.5), n=count)
    return noise / rms(noise)


def wav_bytes(wave: Wave) -> bytes:
    """A mono 16-bit WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1.0, 1.0), RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()

"""Modality `audio`: one instrument or noise source, half a second long, as WAV.

In: a random generator.  Out: an `Example` whose values were drawn from the grammar and then rendered.
Nuisance: tuning, onset time, partials' phases and strengths, vibrato, room noise, level and envelope jitter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS
from pipeline.data.miniature.waves import RATE_HZ, SAMPLES, Wave, decibels, rms, room_noise, smooth, wav_bytes

_GRAMMAR = GRAMMARS["audio"]
_PITCHES_HZ = (98.0, 147.0, 220.0, 330.0, 494.0, 740.0)
_LEVELS_DB = (-38.0, -32.0, -26.0, -20.0, -14.0, -8.0)
_TIME = np.arange(SAMPLES) / RATE_HZ
_NYQUIST_HZ = RATE_HZ / 2


def make(rng: np.random.Generator) -> Example:
    """One recording."""
    values = _GRAMMAR.sample(rng)
    pitch_hz = _PITCHES_HZ[_GRAMMAR.level("pitch", values["pitch"])] * rng.uniform(0.94, 1.06)
    level_db = _LEVELS_DB[_GRAMMAR.level("loudness", values["loudness"])] + rng.uniform(-1.0, 1.0)
    tone = _SOURCES[values["source"]](pitch_hz, rng)
    wave = tone / rms(tone) * _envelope(values["rhythm"], rng) * decibels(level_db)
    wave += room_noise(SAMPLES, rng) * decibels(rng.uniform(-52.0, -46.0))
    return Example(wav_bytes(wave), values)


def _partials(pitch_hz: float, partials: Sequence[tuple[float, float]], rng: np.random.Generator) -> Wave:
    """Sum of `(multiple of the pitch, amplitude)`, with random phases and slightly uneven amplitudes."""
    wave = np.zeros(SAMPLES)
    for multiple, amplitude in partials:
        if multiple * pitch_hz < 0.95 * _NYQUIST_HZ:
            angle = 2 * np.pi * multiple * pitch_hz * _TIME + rng.uniform(0, 2 * np.pi)
            wave += amplitude * rng.uniform(0.85, 1.15) * np.sin(angle)
    return wave


def _flute(pitch_hz: float, rng: np.random.Generator) -> Wave:
    tone = _partials(pitch_hz, [(1, 1.0), (2, 0.08)], rng)
    return tone + 0.08 * rng.standard_normal(SAMPLES)


def _clarinet(pitch_hz: float, rng: np.random.Generator) -> Wave:
    return _partials(pitch_hz, [(k, 1.0 / k**0.7) for k in range(1, 20, 2)], rng)


def _violin(pitch_hz: float, rng: np.random.Generator) -> Wave:
    vibrato = 0.006 * np.sin(2 * np.pi * rng.uniform(5.5, 6.5) * _TIME + rng.uniform(0, 2 * np.pi))
    turns = pitch_hz * (_TIME + np.cumsum(vibrato) * 4 / RATE_HZ)
    count = int(0.95 * _NYQUIST_HZ / (pitch_hz * 1.03))
    wave = np.zeros(SAMPLES)
    for k in range(1, min(count, 16) + 1):
        wave += rng.uniform(0.85, 1.15) / k * np.sin(2 * np.pi * k * turns + rng.uniform(0, 2 * np.pi))
    return wave


def _pipe_organ(pitch_hz: float, rng: np.random.Generator) -> Wave:
    return _partials(pitch_hz, [(0.5, 0.7), (1, 1.0), (2, 0.8), (4, 0.7)], rng)


def _bell(pitch_hz: float, rng: np.random.Generator) -> Wave:
    return _partials(pitch_hz, [(1, 1.0), (1.19, 0.7), (1.56, 0.6), (2.44, 0.6), (2.74, 0.5), (3.76, 0.4)], rng)


def _motor(pitch_hz: float, rng: np.random.Generator) -> Wave:
    pulses = _partials(pitch_hz, [(k, 1.0) for k in range(1, 25)], rng)
    roughness = smooth(rng.standard_normal(SAMPLES), 60)
    return pulses * (1.0 + 4.6 * roughness)


def _wind(pitch_hz: float, rng: np.random.Generator) -> Wave:
    spread = max(8, int(RATE_HZ / (0.25 * pitch_hz)))
    drift = smooth(rng.standard_normal(SAMPLES), spread) + 1j * smooth(rng.standard_normal(SAMPLES), spread)
    band: Wave = np.real(drift * np.exp(2j * np.pi * pitch_hz * _TIME))
    return band


def _synthesizer(pitch_hz: float, rng: np.random.Generator) -> Wave:
    sweep = rng.uniform(2.2, 2.8) * np.sin(2 * np.pi * 1.41 * pitch_hz * _TIME + rng.uniform(0, 2 * np.pi))
    tone: Wave = np.sin(2 * np.pi * pitch_hz * _TIME + sweep)
    return tone


_SOURCES: dict[str, Callable[[float, np.random.Generator], Wave]] = {
    "flute": _flute,
    "clarinet": _clarinet,
    "violin": _violin,
    "pipe organ": _pipe_organ,
    "bell": _bell,
    "motor": _motor,
    "wind": _wind,
    "synthesizer": _synthesizer,
}


def _envelope(rhythm: str, rng: np.random.Generator) -> Wave:
    """Amplitude over time, at most 1."""
    start, end = rng.uniform(0.01, 0.05), rng.uniform(0.45, 0.49)
    part = np.clip((_TIME - start) / (end - start), 0.0, 1.0)
    on = np.where((part > 0.0) & (part < 1.0), 1.0, 0.0)
    if rhythm == "doubled":
        on *= np.abs(part - 0.5) > 0.14
    elif rhythm == "galloping":
        on *= (part < 0.42) | ((part > 0.56) & (part < 0.7)) | (part > 0.84)
    elif rhythm == "stuttering":
        on *= np.mod(part * 6.0, 1.0) < 0.55
    elif rhythm == "trembling":
        on *= 0.62 + 0.38 * np.sin(2 * np.pi * rng.uniform(13, 15) * _TIME + rng.uniform(0, 2 * np.pi))
    elif rhythm == "swelling":
        on *= 0.06 + 0.94 * part**1.5
    elif rhythm == "fading":
        on *= 0.06 + 0.94 * (1 - part) ** 1.5
    return smooth(on, 80)

"""Modality `speech`: single words from a source-filter synthesiser, half a second long, as WAV.

In: a random generator.  Out: an `Example` whose values were drawn from the grammar and then spoken.
Source: a glottal pulse train with the speaker's pitch and the mood's melody, plus breath.  Filter: three moving
formant resonators (scaled by the speaker's vocal tract) and a friction band, applied frame by frame.
Nuisance: pitch, tract, tempo, onset and level jitter, shimmer, room noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS
from pipeline.data.miniature.waves import RATE_HZ, SAMPLES, Wave, decibels, rms, room_noise, smooth, wav_bytes

_GRAMMAR = GRAMMARS["speech"]
_HOP = 64
_WINDOW = 128
_FFT = 256
_WINDOW_SHAPE = np.sin(np.pi * (np.arange(_WINDOW) + 0.5) / _WINDOW)
_BANDWIDTHS_HZ = np.array([70.0, 110.0, 170.0])


@dataclass(frozen=True, slots=True)
class _Phone:
    """Targets of one speech sound."""

    formants_hz: tuple[float, float, float]
    voiced: float
    friction: float = 0.0
    friction_hz: float = 3000.0
    length: float = 1.0


_PHONES = {
    "a": _Phone((750, 1250, 2500), 1.0, length=1.3),
    "e": _Phone((520, 1850, 2550), 1.0, length=1.2),
    "i": _Phone((290, 2250, 2950), 1.0, length=1.2),
    "o": _Phone((500, 850, 2500), 1.0, length=1.3),
    "u": _Phone((320, 800, 2300), 1.0, length=1.2),
    "l": _Phone((360, 1100, 2700), 0.6, length=0.7),
    "w": _Phone((300, 650, 2200), 0.5, length=0.7),
    "y": _Phone((270, 2200, 2950), 0.6, length=0.6),
    "r": _Phone((330, 1100, 1600), 0.6, length=0.7),
    "m": _Phone((250, 950, 2200), 0.35, length=0.8),
    "n": _Phone((250, 1500, 2500), 0.35, length=0.8),
    "z": _Phone((280, 1700, 2500), 0.3, 0.5, 3400.0, 0.9),
    "s": _Phone((300, 1700, 2500), 0.0, 1.0, 3500.0, 1.0),
    "h": _Phone((600, 1500, 2500), 0.1, 0.4, 1500.0, 0.6),
    "-": _Phone((400, 1500, 2500), 0.0, 0.0, 2500.0, 0.6),
    "t": _Phone((350, 1700, 2600), 0.0, 0.9, 2900.0, 0.35),
    "p": _Phone((350, 900, 2300), 0.0, 0.5, 900.0, 0.35),
    "b": _Phone((280, 850, 2300), 0.25, 0.1, 700.0, 0.4),
    "k": _Phone((350, 1800, 2300), 0.0, 0.8, 1900.0, 0.4),
}
_WORDS = {
    "hello": "heloo",
    "yes": "yess",
    "no": "noou",
    "open": "oo-pen",
    "stop": "s-tap",
    "water": "waa-tr",
    "music": "myuuzik",
    "away": "aweei",
    "banana": "banana",
    "please": "-pliiz",
}


@dataclass(frozen=True, slots=True)
class _Speaker:
    """A voice: pitch, vocal tract (1: an adult man's formants), breath and tremor of age."""

    pitch_hz: float
    tract: float
    breath: float = 0.02
    tremor: float = 0.0


_SPEAKERS = {
    "man": _Speaker(118.0, 1.0),
    "woman": _Speaker(208.0, 1.16),
    "boy": _Speaker(262.0, 1.27),
    "girl": _Speaker(325.0, 1.36),
    "grandfather": _Speaker(88.0, 0.97, breath=0.12, tremor=0.25),
    "grandmother": _Speaker(168.0, 1.12, breath=0.12, tremor=0.25),
}


@dataclass(frozen=True, slots=True)
class _Mood:
    """How it is said: melody over the word (start, middle, end factors), level, tempo, tilt, fast quaver."""

    melody: tuple[float, float, float]
    level_db: float
    tempo: float
    tilt: float
    quaver: float = 0.0


_MOODS = {
    "calm": _Mood((1.0, 1.0, 0.96), -20.0, 0.95, 1.0),
    "angry": _Mood((1.35, 1.15, 0.8), -11.0, 1.25, 0.45),
    "happy": _Mood((0.95, 1.45, 1.0), -16.0, 1.1, 0.8),
    "sad": _Mood((1.0, 0.85, 0.7), -26.0, 0.85, 1.5),
    "curious": _Mood((0.9, 0.95, 1.55), -19.0, 1.0, 1.0),
    "nervous": _Mood((1.08, 1.08, 1.08), -19.0, 1.35, 1.0, quaver=0.09),
}


def make(rng: np.random.Generator) -> Example:
    """One utterance."""
    values = _GRAMMAR.sample(rng)
    speaker, mood = _SPEAKERS[values["speaker"]], _MOODS[values["mood"]]
    track = _track(_WORDS[values["word"]], mood, rng)
    spoken = _filtered(_glottis(track, speaker, mood, rng), track, speaker.tract * rng.uniform(0.97, 1.03), rng)
    wave = spoken / rms(spoken) * decibels(mood.level_db + rng.uniform(-1.5, 1.5))
    wave += room_noise(SAMPLES, rng) * decibels(rng.uniform(-52.0, -46.0))
    return Example(wav_bytes(wave), values)


@dataclass(frozen=True, slots=True)
class _Track:
    """Targets over time, one value a sample (formants: one row a resonator)."""

    formants_hz: npt.NDArray[np.float64]
    voiced: Wave
    friction: Wave
    friction_hz: Wave
    progress: Wave


def _track(word: str, mood: _Mood, rng: np.random.Generator) -> _Track:
    """The phones one after the other, with smooth passages between them."""
    phones = [_PHONES[letter] for letter in word]
    lengths = np.array([phone.length for phone in phones]) * rng.uniform(0.9, 1.1, len(phones))
    total = min(0.46, 0.40 / mood.tempo * rng.uniform(0.95, 1.05)) * RATE_HZ
    onset = rng.uniform(0.01, 0.03) * RATE_HZ
    ends = onset + np.cumsum(lengths) / lengths.sum() * total
    time = np.arange(SAMPLES)
    which = np.minimum(np.searchsorted(ends, time), len(phones) - 1)
    inside = ((time >= onset) & (time <= ends[-1])).astype(np.float64)
    targets = np.array([(*phone.formants_hz, phone.voiced, phone.friction, phone.friction_hz) for phone in phones])
    *formants_hz, voiced, friction, friction_hz = targets[which].T
    return _Track(
        formants_hz=np.stack([smooth(formant_hz, 320) for formant_hz in formants_hz]),
        voiced=smooth(voiced * inside, 160),
        friction=smooth(friction * inside, 80),
        friction_hz=friction_hz,
        progress=np.clip((time - onset) / total, 0.0, 1.0),
    )


def _glottis(track: _Track, speaker: _Speaker, mood: _Mood, rng: np.random.Generator) -> Wave:
    """The voice at the larynx: one pulse a period, slow opening and sudden closure, plus breath."""
    time = np.arange(SAMPLES) / RATE_HZ
    melody = np.interp(track.progress, [0.0, 0.5, 1.0], mood.melody)
    quaver = mood.quaver * np.sin(2 * np.pi * rng.uniform(15, 17) * time + rng.uniform(0, 2 * np.pi))
    pitch_hz = speaker.pitch_hz * rng.uniform(0.96, 1.04) * melody * (1 + quaver)
    phase = np.mod(np.cumsum(pitch_hz) / RATE_HZ + rng.uniform(), 1.0)
    opening = np.where(phase < 0.6, np.sin(np.pi * phase / 1.2) ** 2, 0.0)
    pulses = np.diff(opening, prepend=opening[:1])
    tremor = 1 + speaker.tremor * np.sin(2 * np.pi * rng.uniform(5.5, 6.5) * time + rng.uniform(0, 2 * np.pi))
    breath = speaker.breath * rng.standard_normal(SAMPLES) * (0.4 + 0.6 * (phase < 0.6))
    return track.voiced * tremor * (_tilted(pulses, mood.tilt) + breath * rms(pulses) * 3)


def _tilted(pulses: Wave, tilt: float) -> Wave:
    """A tense voice has more high frequencies, a slack one fewer; level unchanged."""
    spectrum = np.fft.rfft(pulses)
    frequency_hz = np.fft.rfftfreq(SAMPLES, 1 / RATE_HZ)
    shaped = np.fft.irfft(spectrum * (1 + frequency_hz / 500) ** (1 - tilt), n=SAMPLES)
    return shaped / rms(shaped) * rms(pulses)


def _filtered(source: Wave, track: _Track, tract: float, rng: np.random.Generator) -> Wave:
    """Source and friction noise through the moving vocal tract: overlapping frames, weighted in frequency."""
    starts = np.arange(0, SAMPLES - _WINDOW + 1, _HOP)
    frames = starts[:, None] + np.arange(_WINDOW)
    middle = starts + _WINDOW // 2
    frequency_hz = np.fft.rfftfreq(_FFT, 1 / RATE_HZ)
    voice = np.fft.rfft(source[frames] * _WINDOW_SHAPE, _FFT) * _resonance(track.formants_hz[:, middle] * tract)
    noise = track.friction * rng.standard_normal(SAMPLES) * rms(source) * 0.5
    distance = (frequency_hz - track.friction_hz[middle, None]) / 600.0
    hiss = np.fft.rfft(noise[frames] * _WINDOW_SHAPE, _FFT) * np.exp(-0.5 * distance**2) * 6
    # The window after the filter removes the tail that wraps around, and makes the frames sum to one.
    parts = np.fft.irfft(voice + hiss, _FFT)[:, :_WINDOW] * _WINDOW_SHAPE
    wave = np.zeros(SAMPLES)
    np.add.at(wave, frames, parts)
    return wave


def _resonance(formants_hz: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    """Frequency response `[frames, bins]` of three two-pole resonators in a row, given `[3, frames]` centres."""
    turn = np.exp(-2j * np.pi * np.fft.rfftfreq(_FFT, 1 / RATE_HZ) / RATE_HZ)
    response = np.ones((formants_hz.shape[1], len(turn)), dtype=np.complex128)
    for centre_hz, bandwidth_hz in zip(formants_hz, _BANDWIDTHS_HZ, strict=True):
        radius = np.exp(-np.pi * bandwidth_hz / RATE_HZ)
        cosine = 2 * radius * np.cos(2 * np.pi * np.minimum(centre_hz, 3900.0) / RATE_HZ)[:, None]
        response *= (1 - cosine + radius**2) / (1 - cosine * turn + radius**2 * turn**2)
    return response

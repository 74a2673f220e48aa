"""Modality `imu`: a worn six-axis inertial sensor, as CSV (time, three accelerations, three turn rates).

In: a random generator.  Out: an `Example` whose values were drawn from the grammar and then simulated.
Each activity is a sum of cadence harmonics on its own axes, the surface shapes the shocks of the steps, and the
sensor's place turns and scales what is felt.  Nuisance: cadence and strength jitter, phase, mounting error, sensor
bias and noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS

RATE_HZ = 50.0
SAMPLES = 128
CHANNELS = ("ax", "ay", "az", "gx", "gy", "gz")
_GRAMMAR = GRAMMARS["imu"]
_CADENCES_HZ = (0.7, 0.91, 1.18, 1.54, 2.0, 2.6)
_GRAVITY = 9.81
_SHIFT_SPAN = 8
_TIME = np.arange(SAMPLES) / RATE_HZ
Series = npt.NDArray[np.float64]
"""A `[T, 3]` or `[T, 6]` series."""


@dataclass(frozen=True, slots=True)
class _Activity:
    """Body motion: `(harmonic, axis, amplitude, phase)` of the six axes, and the shocks of each cycle."""

    waves: tuple[tuple[int, int, float, float], ...]
    shocks: int
    shock: float


# Axes: 0 forward, 1 sideways, 2 up (m/s2); 3 roll, 4 pitch, 5 yaw (rad/s).
_ACTIVITIES = {
    "walking": _Activity(((1, 1, 0.9, 0.0), (2, 2, 1.8, 0.4), (2, 0, 1.0, 1.2), (1, 4, 0.9, 0.0)), 2, 1.6),
    "running": _Activity(((2, 2, 5.0, 0.4), (2, 0, 2.4, 1.6), (1, 5, 1.6, 0.3), (1, 4, 1.6, 0.2)), 2, 4.0),
    "cycling": _Activity(((1, 0, 0.9, 0.0), (1, 4, 2.4, 1.6), (2, 1, 0.5, 0.2)), 1, 0.5),
    "rowing": _Activity(((1, 0, 3.6, 0.0), (2, 0, 1.2, 0.8), (1, 4, 1.4, 1.6), (1, 2, 0.6, 2.0)), 1, 0.6),
    "skipping": _Activity(((1, 2, 3.2, 0.0), (2, 2, 2.6, 0.9), (3, 2, 1.4, 1.0), (1, 3, 1.2, 0.0)), 3, 2.4),
    "climbing": _Activity(((1, 2, 1.6, 0.0), (1, 0, 1.4, 2.4), (1, 3, 1.5, 0.6), (2, 4, 0.9, 0.3)), 1, 1.4),
    "hopping": _Activity(((1, 2, 5.5, 0.0), (2, 2, 1.6, 0.0), (1, 4, 0.5, 0.4)), 1, 4.0),
    "crawling": _Activity(((1, 1, 2.2, 0.0), (1, 5, 1.9, 0.5), (1, 3, 1.2, 1.8), (2, 2, 0.5, 0.0)), 2, 0.8),
}


@dataclass(frozen=True, slots=True)
class _Surface:
    """Ring of a shock (frequency, decay time, strength), and noise: all the time, under load, and slow shifting."""

    ring_hz: float
    decay_s: float
    shock: float
    rough: float = 0.05
    crunch: float = 0.0
    shift: float = 0.0


_SURFACES = {
    "asphalt": _Surface(22.0, 0.025, 5.0),
    "carpet": _Surface(6.0, 0.05, 0.3),
    "grass": _Surface(8.0, 0.16, 2.0),
    "sand": _Surface(4.0, 0.08, 0.4, shift=2.2),
    "snow": _Surface(8.0, 0.05, 0.4, crunch=4.0),
    "gravel": _Surface(14.0, 0.05, 1.2, rough=2.8),
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Mounting (turns about the three axes, degrees) and how strongly swings, shocks and turns arrive there."""

    mounting_deg: tuple[float, float, float]
    swing: float
    shock: float
    turn: float


_PLACES = {
    "wrist": _Place((80.0, 0.0, 30.0), 1.3, 0.9, 1.8),
    "ankle": _Place((0.0, 85.0, 0.0), 1.5, 1.5, 1.6),
    "chest": _Place((0.0, -80.0, 40.0), 0.9, 0.9, 0.7),
    "waist": _Place((0.0, 0.0, 0.0), 1.0, 1.1, 0.8),
    "pocket": _Place((-85.0, 0.0, -30.0), 1.2, 1.2, 1.3),
    "helmet": _Place((0.0, 30.0, 90.0), 0.8, 0.8, 0.6),
    "backpack": _Place((180.0, 20.0, 0.0), 0.9, 1.0, 0.6),
}


def make(rng: np.random.Generator) -> Example:
    """One recording of 2.56 seconds."""
    values = _GRAMMAR.sample(rng)
    activity, surface = _ACTIVITIES[values["activity"]], _SURFACES[values["surface"]]
    place = _PLACES[values["place"]]
    cadence_hz = _CADENCES_HZ[_GRAMMAR.level("pace", values["pace"])] * rng.uniform(0.95, 1.05)
    start = rng.uniform()
    cycle = cadence_hz * _TIME + start

    felt = _swing(activity, cycle, rng)
    felt[:, :3] *= place.swing
    felt[:, 3:] *= place.turn
    felt[:, :3] += _ground_force(activity, surface, cadence_hz, start, rng) * place.shock
    felt[:, 2] += _GRAVITY
    mounting = np.array(place.mounting_deg) + rng.uniform(-8, 8, 3)
    turn = _rotation(np.deg2rad(mounting))
    felt = np.concatenate([felt[:, :3] @ turn.T, felt[:, 3:] @ turn.T], axis=1)
    felt += rng.normal(0, [0.15] * 3 + [0.04] * 3) + rng.normal(0, [0.12] * 3 + [0.05] * 3, felt.shape)
    return Example(_csv_bytes(felt), values)


def _swing(activity: _Activity, cycle: Series, rng: np.random.Generator) -> Series:
    """The periodic part `[T, 6]`, in the body's axes."""
    felt = np.zeros((SAMPLES, 6))
    strength = rng.uniform(0.9, 1.1)
    for harmonic, axis, amplitude, phase in activity.waves:
        angle = 2 * np.pi * harmonic * cycle + phase + rng.normal(0, 0.15)
        felt[:, axis] += amplitude * strength * rng.uniform(0.9, 1.1) * np.sin(angle)
    return felt


def _ground_force(
    activity: _Activity, surface: _Surface, cadence_hz: float, start: float, rng: np.random.Generator
) -> Series:
    """Shocks, noise and shifting `[T, 3]` of the ground, in the body's axes."""
    count = activity.shocks
    since_s = np.mod(cadence_hz * _TIME + start, 1 / count) / cadence_hz
    load = np.exp(-since_s / surface.decay_s)
    ring = load * np.cos(2 * np.pi * surface.ring_hz * rng.uniform(0.93, 1.07) * since_s)
    force = np.zeros((SAMPLES, 3))
    force[:, 2] = (activity.shock + 0.8) * surface.shock * ring
    force[:, 0] = 0.35 * force[:, 2]
    noise = rng.standard_normal((SAMPLES, 3))
    force += noise * (surface.rough + surface.crunch * np.exp(-since_s / 0.2))[:, None]
    drift = np.cumsum(rng.standard_normal((SAMPLES + _SHIFT_SPAN, 3)), axis=0)
    force += surface.shift * (drift[_SHIFT_SPAN:] - drift[:-_SHIFT_SPAN]) / _SHIFT_SPAN**0.5
    return force


def _rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    matrix: npt.NDArray[np.float64] = about_z @ about_y @ about_x
    return matrix


def _csv_bytes(felt: Series) -> bytes:
    lines = [",".join(("time_s", *CHANNELS))]
    for time_s, row in zip(_TIME, felt.tolist(), strict=True):
        lines.append(",".join((f"{time_s:.2f}", *(f"{value:.3f}" for value in row))))
    return ("\n".join(lines) + "\n").encode()

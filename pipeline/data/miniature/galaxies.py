"""Modality `astronomy`: galaxies with Sersic profiles in three bands, as PNG.

In: a random generator.  Out: an `Example` whose values were drawn from the grammar and then rendered.
Bands: near infrared, visible, ultraviolet as red, green, blue.  Nuisance: position angle, spin, centre, profile and
colour jitter, field stars, sky noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.miniature import drawing
from pipeline.data.miniature.drawing import Plane
from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS

SIDE = 32
_GRAMMAR = GRAMMARS["astronomy"]
_AXIS_RATIOS = (0.95, 0.72, 0.52, 0.35)
_PEAKS = (14.0, 25.0, 45.0, 80.0, 143.0, 255.0)
_SKY = 1.0
_FLUX = 90.0
_ARMS_SHARE = 0.55
_LARGEST_TURN = 0.8
_WHITE_POINT = 450.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """Sersic index, half-light radius in pixels, colour, and strength of knots (bright) or dust (dark)."""

    index: float
    radius: float
    colour: tuple[float, float, float]
    knots: float = 0.0


_KINDS = {
    "dwarf": _Kind(0.7, 3.6, (0.85, 1.0, 0.95)),
    "starburst": _Kind(1.0, 6.0, (0.55, 0.85, 1.5), knots=0.35),
    "quiescent": _Kind(2.0, 5.2, (1.5, 0.95, 0.45)),
    "dusty": _Kind(0.8, 6.4, (1.35, 0.75, 0.7), knots=-0.4),
    "compact": _Kind(2.6, 3.4, (1.0, 1.1, 1.25)),
    "giant": _Kind(1.6, 8.5, (1.25, 1.1, 0.65)),
}


@dataclass(frozen=True, slots=True)
class _Frame:
    """Pixel coordinates: on the sky, along the projected axes, and in the plane of the disc."""

    major: Plane
    minor: Plane
    radius: Plane
    azimuth: Plane


def make(rng: np.random.Generator) -> Example:
    """One galaxy."""
    values = _GRAMMAR.sample(rng)
    kind = _KINDS[values["kind"]]
    ratio = _AXIS_RATIOS[_GRAMMAR.level("tilt", values["tilt"])] * rng.uniform(0.96, 1.04)
    frame = _frame(min(ratio, 1.0), rng)
    colour = np.array(kind.colour) * rng.uniform(0.93, 1.07, 3)

    light = _sersic(frame.radius, kind.index * rng.uniform(0.9, 1.1), kind.radius * rng.uniform(0.93, 1.07))
    light *= 1 + kind.knots * np.clip(drawing.soft_noise((SIDE, SIDE), 0.9, rng), -1.5, 1.5)
    light /= light.sum()
    arms = _arms(_GRAMMAR.level("arms", values["arms"]), frame, rng)
    if arms.any():
        light += _ARMS_SHARE * arms / arms.sum() - light * _ARMS_SHARE
    galaxy = _FLUX * light[:, :, None] * colour
    galaxy = _with_feature(values["feature"], galaxy, frame, rng)

    peak = _PEAKS[_GRAMMAR.level("brightness", values["brightness"])] * rng.uniform(0.92, 1.08)
    seen = galaxy * peak + _field_stars(rng) + rng.normal(0, _SKY, galaxy.shape)
    return Example(drawing.png_bytes(_stretched(seen)), values)


def _frame(ratio: float, rng: np.random.Generator) -> _Frame:
    x, y = drawing.pixel_grid(SIDE, SIDE)
    centre = (SIDE - 1) / 2 + rng.uniform(-0.8, 0.8, 2)
    turn = rng.uniform(-_LARGEST_TURN, _LARGEST_TURN)
    x, y = x - centre[0], y - centre[1]
    major = np.cos(turn) * x + np.sin(turn) * y
    minor = np.cos(turn) * y - np.sin(turn) * x
    return _Frame(major, minor, np.hypot(major, minor / ratio), np.arctan2(minor / ratio, major))


def _sersic(radius: Plane, index: float, half_light: float) -> Plane:
    """Surface brightness of a Sersic profile; half of the light falls inside `half_light`."""
    steepness = 2 * index - 1 / 3
    profile: Plane = np.exp(-steepness * ((np.maximum(radius, 0.4) / half_light) ** (1 / index) - 1))
    return profile


def _arms(count: int, frame: _Frame, rng: np.random.Generator) -> Plane:
    """Logarithmic spiral arms, narrow in azimuth."""
    if count == 0:
        return np.zeros_like(frame.radius)
    winding = 1.3 * np.log(np.maximum(frame.radius, 1.0)) * rng.choice([-1, 1]) + rng.uniform(0, 2 * np.pi)
    crest = np.exp(3.0 * (np.cos(count * (frame.azimuth - winding)) - 1))
    extent = np.exp(-(((frame.radius - 8.0) / 5.0) ** 2))
    arms: Plane = crest * extent
    return arms


def _with_feature(feature: str, galaxy: Plane, frame: _Frame, rng: np.random.Generator) -> Plane:
    """The galaxy `[H, W, 3]` with the feature on it."""
    if feature == "luminous core":
        spot = np.exp(-0.5 * (frame.major**2 + frame.minor**2))
        return _plus(galaxy, spot, rng.uniform(1.6, 2.0), (1.0, 1.0, 1.0))
    if feature == "bar":
        turn = rng.uniform(0, np.pi)
        along = np.cos(turn) * frame.major + np.sin(turn) * frame.minor
        aside = np.cos(turn) * frame.minor - np.sin(turn) * frame.major
        bar = np.exp(-((along / 5.0) ** 4) - (aside / 1.2) ** 2)
        return _plus(galaxy, bar, 0.9, (1.3, 1.0, 0.6))
    if feature == "ring":
        band = np.exp(-(((frame.radius - rng.uniform(11.0, 12.0)) / 1.1) ** 2))
        return _plus(galaxy, band, 0.5, (0.7, 0.9, 1.2))
    if feature == "jet":
        side = rng.choice([-1, 1])
        beam = np.exp(-((frame.major / 0.8) ** 2)) * (side * frame.minor > 1.0)
        return _plus(galaxy, beam, 0.8, (0.5, 0.6, 1.5))
    if feature == "companion":
        turn = rng.uniform(0, 2 * np.pi)
        away = np.hypot(frame.major - 11.5 * np.cos(turn), frame.minor - 11.5 * np.sin(turn))
        return _plus(galaxy, np.exp(-0.5 * (away / 1.6) ** 2), 1.1, (1.0, 1.0, 0.9))
    lane = np.exp(-(((frame.minor - rng.uniform(-0.5, 0.5)) / 1.0) ** 2))
    dimmed: Plane = galaxy * (1 - 0.9 * lane[:, :, None])
    return dimmed


def _plus(galaxy: Plane, light: Plane, strength: float, colour: tuple[float, float, float]) -> Plane:
    """The galaxy with coloured light on it."""
    lit: Plane = galaxy + strength * light[:, :, None] * np.array(colour)
    return lit


def _field_stars(rng: np.random.Generator) -> Plane:
    """A few faint stars that are not part of the galaxy."""
    x, y = drawing.pixel_grid(SIDE, SIDE)
    stars = np.zeros((SIDE, SIDE, 3))
    for _ in range(rng.poisson(1.0)):
        place = rng.uniform(0, SIDE - 1, 2)
        spot = np.exp(-0.5 * ((x - place[0]) ** 2 + (y - place[1]) ** 2) / 0.5**2)
        stars += rng.uniform(3, 8) * spot[:, :, None] * rng.uniform(0.8, 1.2, 3)
    return stars


def _stretched(seen: Plane) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The usual arcsinh stretch: linear in the noise, logarithmic in the light."""
    soft = 2.0 * _SKY
    return drawing.to_uint8(12 + 243 * np.arcsinh(seen / soft) / np.arcsinh(_WHITE_POINT / soft))

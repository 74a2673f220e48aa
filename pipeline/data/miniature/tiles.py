"""Modality `satellite`: multispectral tiles of six bands, as 16-bit TIFF.

In: a random generator.  Out: an `Example` whose values were drawn from the grammar and then rendered.
Bands: blue, green, red, red edge, near infrared, short-wave infrared; reflectance times 10,000.
Nuisance: illumination, haze, spectral and texture variation, places and courses, roof colours, sensor noise.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import tifffile

from pipeline.data.miniature import drawing
from pipeline.data.miniature.drawing import Plane
from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS

SIDE = 24
_GRAMMAR = GRAMMARS["satellite"]
_SCALE = 10_000
# One row a land use: reflectance in the six bands.
_LAND = {
    "forest": (0.03, 0.05, 0.03, 0.13, 0.38, 0.15),
    "farmland": (0.06, 0.09, 0.08, 0.20, 0.36, 0.24),
    "desert": (0.16, 0.22, 0.30, 0.34, 0.38, 0.46),
    "grassland": (0.05, 0.12, 0.08, 0.22, 0.44, 0.27),
    "wetland": (0.05, 0.07, 0.05, 0.12, 0.19, 0.09),
    "snowfield": (0.80, 0.80, 0.78, 0.76, 0.70, 0.10),
    "orchard": (0.07, 0.10, 0.09, 0.17, 0.30, 0.26),
    "quarry": (0.22, 0.24, 0.25, 0.26, 0.27, 0.30),
}
_WATER = np.array([0.08, 0.07, 0.045, 0.025, 0.015, 0.008])
_ROOFS = np.array([[0.42, 0.38, 0.36, 0.34, 0.30, 0.62], [0.30, 0.26, 0.40, 0.36, 0.28, 0.66]])
_ROOF_COUNTS = (4, 8, 15, 26, 44, 72)
_SIDES = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")


def make(rng: np.random.Generator) -> Example:
    """One tile."""
    values = _GRAMMAR.sample(rng)
    x, y = drawing.pixel_grid(SIDE, SIDE)
    x, y = x - (SIDE - 1) / 2, y - (SIDE - 1) / 2
    bearing = _SIDES.index(values["side"]) * np.pi / 4 + rng.uniform(-0.12, 0.12)
    # Coordinates with `ahead` towards the settlement's side and `across` to its right.
    ahead = np.sin(bearing) * x - np.cos(bearing) * y
    across = np.cos(bearing) * x + np.sin(bearing) * y

    tile = _land(values["land"], x, y, rng)
    water = _water(values["water"], ahead, across, rng)
    tile += water[:, :, None] * (_WATER * rng.uniform(0.8, 1.2) - tile)
    roofs = _roofs(_GRAMMAR.level("density", values["density"]), ahead, across, rng)
    shades = _ROOFS[rng.integers(2, size=(SIDE, SIDE))] * rng.uniform(0.85, 1.15, (SIDE, SIDE, 1))
    tile = np.where(roofs[:, :, None], shades, tile)
    return Example(_tiff_bytes(_seen_from_orbit(tile, rng)), values)


def _land(land: str, x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    """Ground `[H, W, 6]`: the land use's spectrum with its own texture."""
    turn = rng.uniform(0, np.pi)
    along, aside = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    texture = 0.1 * drawing.soft_noise((SIDE, SIDE), 1.2, rng)
    if land == "farmland":
        texture += 0.28 * np.sign(np.sin(2 * np.pi * along / rng.uniform(4.5, 6) + rng.uniform(0, 6)))
    elif land == "orchard":
        wave = 2 * np.pi / rng.uniform(3.0, 3.6)
        texture += 0.35 * np.sin(wave * along) * np.sin(wave * aside)
    elif land == "desert":
        texture += 0.1 * np.sin(2 * np.pi * along / rng.uniform(6, 9) + 2 * np.sin(aside / 4))
    spectrum = np.array(_LAND[land]) * rng.uniform(0.93, 1.07, 6)
    ground: Plane = spectrum * (1 + texture[:, :, None])
    return ground


def _water(water: str, ahead: Plane, across: Plane, rng: np.random.Generator) -> Plane:
    """Coverage by water, which lies away from the settlement."""
    place = rng.uniform(-6.5, -3.5)
    lean = rng.uniform(-0.3, 0.3)
    course = ahead - place - lean * across
    if water == "a river":
        bend = 2.4 * np.sin(2 * np.pi * across / rng.uniform(11, 15) + rng.uniform(0, 2 * np.pi))
        return np.clip(1.7 - np.abs(course - bend), 0, 1)
    if water == "a canal":
        return np.clip(1.3 - np.abs(course), 0, 1)
    if water == "a lake":
        return np.clip(rng.uniform(3.6, 4.6) - np.hypot(course, 0.75 * (across - rng.uniform(-3, 3))), 0, 1)
    if water == "a coastline":
        ripple = 0.8 * np.sin(2 * np.pi * across / rng.uniform(7, 10) + rng.uniform(0, 2 * np.pi))
        return np.clip(0.5 - (course + 1.5 - ripple), 0, 1)
    ponds = np.zeros_like(ahead)
    if water == "some ponds":
        slots = np.array([-8.0, -4.0, 0.0, 4.0, 8.0])
        for slot in slots[rng.permutation(5)[: rng.integers(3, 6)]]:
            away = np.hypot(ahead - rng.uniform(-8, -2.5), across - slot - rng.uniform(-0.8, 0.8))
            ponds = np.maximum(ponds, np.clip(rng.uniform(1.5, 2.0) - away, 0, 1))
    return ponds


def _roofs(level: int, ahead: Plane, across: Plane, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Pixels with a roof, scattered over the settlement's side."""
    count = round(_ROOF_COUNTS[level] * rng.uniform(0.92, 1.08))
    inside = np.flatnonzero((ahead > 2.5) & (np.abs(across) < 0.9 * ahead + 1.5))
    roofs = np.zeros(ahead.size, dtype=np.bool_)
    roofs[rng.permutation(inside)[:count]] = True
    return roofs.reshape(ahead.shape)


def _seen_from_orbit(tile: Plane, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Sunlight, haze (strongest in blue) and noise, as stored numbers."""
    haze = rng.uniform(0.0, 0.05) * np.array([1.0, 0.75, 0.55, 0.4, 0.25, 0.1])
    shade = 1 + 0.06 * drawing.soft_noise((SIDE, SIDE), 6.0, rng)[:, :, None]
    seen = tile * rng.uniform(0.85, 1.15) * shade + haze + rng.normal(0, 0.008, tile.shape)
    return np.clip(np.rint(seen * _SCALE), 0, 65535).astype(np.uint16)


def _tiff_bytes(bands: npt.NDArray[np.uint16]) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, bands, photometric="minisblack", planarconfig="contig", metadata=None, software=False, byteorder="<"
    )
    return buffer.getvalue()

"""Antialiased figures by signed distance, and image files: shared by the generators of pictures and clips.

In: figure names, pixel coordinates.  Out: coverage masks in `[0, 1]`, PNG bytes.  Figures have unit radius and are
centred on the origin; x points right and y down.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Plane = npt.NDArray[np.float64]
"""A `[H, W]` map."""
Distance = Callable[[Plane, Plane], Plane]
"""Signed distance of every point to a figure's outline, negative inside; exact enough near the outline."""


def pixel_grid(height: int, width: int) -> tuple[Plane, Plane]:
    """Coordinates `(x, y)` of the pixel centres."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    return x, y


def coverage(figure: Distance, x: Plane, y: Plane, *, radius: float, angle: float = 0.0) -> Plane:
    """Share of each pixel inside the figure, which is scaled to `radius` pixels and turned by `angle` radians."""
    return np.clip(0.5 - distance(figure, x, y, radius=radius, angle=angle), 0.0, 1.0)


def distance(figure: Distance, x: Plane, y: Plane, *, radius: float, angle: float = 0.0) -> Plane:
    """Signed distance in pixels."""
    c, s = np.cos(angle) / radius, np.sin(angle) / radius
    return figure(c * x + s * y, c * y - s * x) * radius


def circle(x: Plane, y: Plane) -> Plane:
    """A disc."""
    return np.hypot(x, y) - 1.0


def square(x: Plane, y: Plane) -> Plane:
    """An upright square."""
    return np.maximum(np.abs(x), np.abs(y)) - 0.85


def triangle(x: Plane, y: Plane) -> Plane:
    """An equilateral triangle with its tip up."""
    return np.maximum(y, 0.866 * np.abs(x) - 0.5 * y) - 0.58


def diamond(x: Plane, y: Plane) -> Plane:
    """A rhombus that is taller than wide."""
    return 0.83 * np.abs(x) + 0.56 * np.abs(y) - 0.62


def star(x: Plane, y: Plane) -> Plane:
    """A star with five points."""
    turn = np.mod(np.arctan2(x, -y) / (2 * np.pi) * 5, 1.0)
    spike = np.abs(turn - 0.5) * 2
    return 0.8 * (np.hypot(x, y) - (0.42 + 0.78 * spike**1.4))


def cross(x: Plane, y: Plane) -> Plane:
    """An upright cross with arms of equal length."""
    across = np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.3)
    along = np.maximum(np.abs(x) - 0.3, np.abs(y) - 1.0)
    return np.minimum(across, along)


def ring(x: Plane, y: Plane) -> Plane:
    """An annulus."""
    return np.abs(np.hypot(x, y) - 0.8) - 0.22


def crescent(x: Plane, y: Plane) -> Plane:
    """A moon that opens to the right."""
    return np.maximum(np.hypot(x, y) - 1.0, 0.8 - np.hypot(x - 0.5, y))


def beam(x: Plane, y: Plane) -> Plane:
    """A wide, flat bar."""
    return np.maximum(np.abs(x) - 1.3, np.abs(y) - 0.33)


def discs(x: Plane, y: Plane) -> Plane:
    """Two discs side by side."""
    return np.minimum(np.hypot(x - 0.7, y), np.hypot(x + 0.7, y)) - 0.5


def soft_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Plane:
    """Smooth noise with zero mean and unit deviation; the blur covers the last two axes."""
    blur = (0.0,) * (len(shape) - 2) + (sigma, sigma)
    noise: Plane = ndimage.gaussian_filter(rng.standard_normal(shape), blur, mode="wrap")
    noise -= noise.mean()
    noise /= noise.std()
    return noise


def to_uint8(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Rounded and clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def png_bytes(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of a `[H, W]` or `[H, W, 3]` image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()

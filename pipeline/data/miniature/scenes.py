"""Modality `image`: a coloured figure on a textured ground among white dots, as PNG.

In: a random generator.  Out: an `Example` whose values were drawn from the grammar and then rendered.
Nuisance: ground colour and texture, illumination, tint, turn, place and size jitter, sensor noise.
"""

from __future__ import annotations

import numpy as np

from pipeline.data.miniature import drawing
from pipeline.data.miniature.drawing import Plane
from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS

SIDE = 32
_GRAMMAR = GRAMMARS["image"]
_FIGURES: dict[str, drawing.Distance] = {
    "circle": drawing.circle,
    "square": drawing.square,
    "triangle": drawing.triangle,
    "diamond": drawing.diamond,
    "star": drawing.star,
    "cross": drawing.cross,
    "ring": drawing.ring,
    "crescent": drawing.crescent,
}
_COLOURS = {
    "red": (215, 40, 45),
    "orange": (240, 140, 30),
    "yellow": (235, 225, 50),
    "green": (45, 175, 60),
    "cyan": (45, 210, 215),
    "blue": (50, 80, 225),
    "purple": (140, 50, 190),
    "pink": (245, 140, 190),
}
_RADII = (3.4, 4.3, 5.4, 6.8, 8.5, 10.6)
_CENTRES = (8.0, 15.5, 23.0)
_DOT_RADIUS = 1.15
_DOT_GAP = 3.2


def make(rng: np.random.Generator) -> Example:
    """One scene."""
    values = _GRAMMAR.sample(rng)
    x, y = drawing.pixel_grid(SIDE, SIDE)
    row, column = divmod(_GRAMMAR.level("position", values["position"]), 3)
    centre_x, centre_y = np.array([_CENTRES[column], _CENTRES[row]]) + rng.uniform(-1.1, 1.1, 2)
    radius = _RADII[_GRAMMAR.level("size", values["size"])] * rng.uniform(0.95, 1.05)
    figure = _FIGURES[values["shape"]]
    gap = drawing.distance(figure, x - centre_x, y - centre_y, radius=radius, angle=rng.uniform(-0.2, 0.2))
    tint = np.array(_COLOURS[values["colour"]]) + rng.uniform(-14, 14, 3)

    picture = _ground(rng)
    picture += np.clip(0.5 - gap, 0, 1)[:, :, None] * (tint - picture)
    dots = _dots(gap, _GRAMMAR.level("count", values["count"]) + 2, x, y, rng)
    picture += dots[:, :, None] * (rng.uniform(232, 255) - picture)
    picture = picture * rng.uniform(0.88, 1.08) + rng.normal(0, 5, picture.shape)
    return Example(drawing.png_bytes(drawing.to_uint8(picture)), values)


def _ground(rng: np.random.Generator) -> Plane:
    """A dark ground `[H, W, 3]` with a gradient and blotches."""
    x, y = drawing.pixel_grid(SIDE, SIDE)
    turn = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(turn) * x + np.sin(turn) * y) / SIDE
    texture = rng.uniform(3, 10) * drawing.soft_noise((SIDE, SIDE), rng.uniform(1, 3), rng)
    ground: Plane = rng.uniform(25, 85, 3) + (rng.uniform(-25, 25) * slope + texture)[:, :, None]
    return ground


def _dots(gap: Plane, count: int, x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    """Coverage of `count` dots that touch neither the figure, nor the frame, nor each other."""
    inside = np.minimum(np.minimum(x, y), SIDE - 1 - np.maximum(x, y)) >= 1.5
    free = inside & (gap > _DOT_RADIUS + 1.2)
    mask = np.zeros_like(gap)
    for _ in range(count):
        if not free.any():
            # A giant figure can leave too little room: dots may then come as near as they can be told apart.
            free = inside & (gap > _DOT_RADIUS) & (mask == 0)
        place = rng.choice(np.flatnonzero(free))
        dot_x, dot_y = place % SIDE + rng.uniform(-0.3, 0.3), place // SIDE + rng.uniform(-0.3, 0.3)
        away = np.hypot(x - dot_x, y - dot_y)
        mask = np.maximum(mask, np.clip(_DOT_RADIUS + 0.5 - away, 0, 1))
        free &= away > _DOT_GAP
    return mask

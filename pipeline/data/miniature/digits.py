"""Modality `digits`: the real scanned digits that scikit-learn ships, as 8 x 8 grey PNG.

In: the index of a scan.  Out: an `Example` whose values are the scan's label and what moments of its pixels say.
Phrases of a measured attribute split the 1,797 scans into parts of equal size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline.data.miniature import drawing
from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS

COUNT = 1797
_GRAMMAR = GRAMMARS["digits"]
_FULL_INK = 16.0


Scan = npt.NDArray[np.float64]
"""An `[8, 8]` scan, ink from 0 to 16."""


@dataclass(frozen=True, slots=True)
class _Scans:
    images: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    edges: dict[str, npt.NDArray[np.float64]]


def make(index: int) -> Example:
    """One scan of the collection."""
    return example_of(*scan(index))


def scan(index: int) -> tuple[Scan, int]:
    """One scan of the collection and the digit that it shows."""
    scans = _scans()
    return scans.images[index], int(scans.labels[index])


def example_of(image: Scan, digit: int) -> Example:
    """Any scan, with the phrases that its measures have among the collection's."""
    values = {"digit": _GRAMMAR.values("digit")[digit]}
    for name, measured in measure(image[None]).items():
        values[name] = _GRAMMAR.values(name)[int(np.searchsorted(_scans().edges[name], measured[0]))]
    return Example(drawing.png_bytes(drawing.to_uint8(image / _FULL_INK * 255)), values)


def measure(images: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Ink, lean, width and height of the centre of mass of `[n, H, W]` images, one number an image."""
    y, x = np.mgrid[0 : images.shape[1], 0 : images.shape[2]]
    ink = images.sum(axis=(1, 2))
    mean_x, mean_y = (images * x).sum(axis=(1, 2)) / ink, (images * y).sum(axis=(1, 2)) / ink
    dx, dy = x - mean_x[:, None, None], y - mean_y[:, None, None]
    spread_y = (images * dy**2).sum(axis=(1, 2)) / ink
    return {
        "stroke": ink,
        # Positive where the top leans to the right, as in slanted handwriting.
        "slant": -(images * dx * dy).sum(axis=(1, 2)) / ink / spread_y,
        "width": (images * dx**2).sum(axis=(1, 2)) / ink,
        "weight": mean_y,
    }


@cache
def _scans() -> _Scans:
    # Importing scikit-learn takes longer than making a whole modality, and only this one needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.float64)
    edges = {}
    for name, measured in measure(images).items():
        count = len(_GRAMMAR.values(name))
        edges[name] = np.quantile(measured, np.arange(1, count) / count)
    return _Scans(images, bunch.target.astype(np.int64), edges)

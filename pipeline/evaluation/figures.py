"""How every figure looks, and a figure without pyplot.

In: a size.  Out: a Matplotlib figure and its axes.
Colours are from the Okabe-Ito palette, which colour-blind readers can tell apart; no colour carries meaning alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BLUE, SKY, GREY = "#0072B2", "#56B4E9", "#666666"
INK, FAINT = "#222222", "#DDDDDD"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.dpi": 150,
    "savefig.facecolor": "white",
}


@contextmanager
def canvas(figsize: tuple[float, float]) -> Iterator[Any]:
    """An empty figure, without pyplot: that would pick a GUI backend and keep every figure alive."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # a second to import, so only where something is drawn

    with mpl.rc_context(_STYLE):
        yield Figure(figsize=figsize, layout="constrained")


@contextmanager
def figure(rows: int, columns: int, figsize: tuple[float, float], **axes: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its grid of axes."""
    with canvas(figsize) as made:
        yield made, made.subplots(rows, columns, squeeze=False, **axes)

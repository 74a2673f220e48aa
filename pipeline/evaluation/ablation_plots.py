"""A figure of one ablated factor, as a PNG file.

In: a `FactorTable`.  Out: its variants from top to bottom, scores on the left and paired differences on the right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.evaluation.ablations import FactorTable
from pipeline.evaluation.figures import BLUE, GREY, INK, figure
from pipeline.evaluation.markdown import label
from pipeline.evaluation.protocol import Estimate

_STYLES = ((BLUE, "o"), ("#E69F00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#D55E00", "v"), (GREY, "P"))
"""Colour and marker of a method, by its place; colour alone must not tell them apart."""
_APART = 0.22


def plot_factor(table: FactorTable, path: Path, *, confidence: float) -> None:
    """Draw the variants that were scored; the reference is the first row."""
    rows = [row for row in table.rows if row.scores]
    if not rows:
        raise ValueError(f"{table.name}: no variant was scored, so there is nothing to draw")
    height = 1.5 + (0.3 + 0.16 * len(table.methods)) * len(rows)
    with figure(1, 2, figsize=(9.6, height), sharey=True) as (drawn, axes):
        left, right = axes[0]
        for number, method in enumerate(table.methods):
            shift = _APART * (number - (len(table.methods) - 1) / 2)
            for place, row in enumerate(rows):
                score = row.scores[method]
                _whisker(left, score.mean, place + shift, number)
                if score.difference is not None:
                    _whisker(right, score.difference, place + shift, number)
            colour, marker = _style(number)
            left.plot([], [], marker, color=colour, label=label(method))
        right.axvline(0.0, color=INK, linewidth=1.0)
        left.set_title(table.unit if table.exact else f"{table.unit} x100")
        right.set_title("minus base, paired")
        left.set_yticks(range(len(rows)), [row.name for row in rows])
        left.set_ylim(len(rows) - 0.5, -0.5)
        for axis in (left, right):
            axis.grid(axis="x")
            axis.locator_params(axis="x", nbins=6)
            axis.tick_params(axis="y", length=0)
        drawn.legend(loc="outside lower left", ncols=len(table.methods), frameon=False)
        drawn.suptitle(f"Ablation: {table.name}", x=0.01, ha="left", fontsize=13, weight="bold")
        drawn.supxlabel(f"{confidence:.0%} bootstrap intervals", x=0.99, ha="right", fontsize=9, color=GREY)
        drawn.savefig(path)


def _whisker(axis: Any, estimate: Estimate, height: float, number: int) -> None:
    colour, marker = _style(number)
    axis.plot([estimate.low, estimate.high], [height, height], color=colour, linewidth=2.0, solid_capstyle="butt")
    axis.plot(estimate.mean, height, marker, color=colour, markersize=6)


def _style(number: int) -> tuple[str, str]:
    return _STYLES[number % len(_STYLES)]

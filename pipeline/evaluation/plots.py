"""Plots of a report, as PNG files.

In: a `Summary`, or training losses by step.  Out: accuracy by method and modality with interval whiskers; loss curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.figures import BLUE, GREY, INK, SKY, figure
from pipeline.evaluation.protocol import Estimate, Scores
from pipeline.evaluation.results import shots_label
from pipeline.evaluation.summary import LABELS, Summary

_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_PANEL_COLUMNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A quantity over training steps."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]


def plot_accuracy(summary: Summary, shots: int | None, path: Path) -> None:
    """One panel a modality and one for their mean; methods from best to worst by that mean, with whiskers.

    Where `summary.exact` is not, CIDEr-D takes the place of attribute accuracy.
    """
    exact = summary.exact
    shown = {method: cell.score(exact) for (method, size), cell in summary.means.items() if size == shots}
    if not shown:
        there = ", ".join(map(shots_label, summary.shots))
        raise ValueError(f"there are no results at {shots_label(shots)} shots; there are at {there}")
    methods = sorted(shown, key=lambda method: shown[method].mean)
    panels = [(f"mean of {len(summary.datasets)} modalities", shown)] if len(summary.datasets) > 1 else []
    for dataset in summary.datasets:
        keys = {method: (dataset, method, shots) for method in methods}
        found = {method: summary.cells[key].score(exact) for method, key in keys.items() if key in summary.cells}
        if found:
            panels.append((dataset, found))
    columns = min(len(panels), _PANEL_COLUMNS)
    rows = math.ceil(len(panels) / columns)
    with figure(
        rows,
        columns,
        figsize=(max(2.2 + 3.1 * columns, 7.0), 0.9 + rows * (0.75 + 0.27 * len(methods))),
        sharex=True,
        sharey=True,
    ) as (drawn, axes):
        for axis, (title, estimates) in zip(axes.flat, panels, strict=False):
            _panel(axis, title, methods, estimates, summary.focus, exact)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        level = f"{summary.confidence:.0%} bootstrap intervals over draws and test samples"
        name = "exact attribute accuracy" if exact else "CIDEr-D"
        drawn.suptitle(
            f"Held-out modalities at {shots_label(shots)} shots: {name}", x=0.01, ha="left", fontsize=13, weight="bold"
        )
        drawn.supxlabel(level, fontsize=9, color=GREY)
        drawn.savefig(path)


def plot_curves(curves: Sequence[Curve], title: str, path: Path, *, ylabel: str = "loss") -> None:
    """Every curve raw (thin) and smoothed (thick)."""
    with figure(1, 1, figsize=(7.2, 4.0)) as (drawn, axes):
        axis = axes[0, 0]
        smoothed: list[Scores] = []
        for number, curve in enumerate(curves):
            colour, dash = _LINES[number % len(_LINES)], ("-", "--", "-.", ":")[number % 4]
            values = np.asarray(curve.values, dtype=np.float64)
            smoothed.append(smooth(values))
            axis.plot(curve.steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(curve.steps, smoothed[-1], color=colour, linestyle=dash, linewidth=2.2, label=curve.label)
        _limit_spikes(axis, [np.asarray(curve.values, dtype=np.float64) for curve in curves], smoothed)
        axis.set(title=title, xlabel="step", ylabel=ylabel)
        axis.grid(axis="y")
        axis.margins(x=0.01)
        if len(curves) > 1:
            axis.legend(frameon=False)
        drawn.savefig(path)


def smooth(values: Scores, window: float = 0.02) -> Scores:
    """Gaussian mean, centred so that it does not lag, of standard deviation `window` (share of the curve).

    One or two wild steps leave no bump (a running median of five goes first); NaN is bridged by its neighbours.
    """
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(values), np.nan)
    steps = np.arange(len(values))
    filled = np.interp(steps, steps[known], values[known])
    calm = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(filled, 2, mode="edge"), 5), axis=1)
    width = max(window * len(values), 1.0)
    reach = math.ceil(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    sums, weights = (np.convolve(signal, kernel)[reach : reach + len(values)] for signal in (calm, np.ones(len(calm))))
    smoothed: Scores = sums / weights
    return smoothed


def _panel(
    axis: Any, title: str, methods: Sequence[str], estimates: Mapping[str, Estimate], focus: str, exact: bool
) -> None:
    axis.set_title(title)
    axis.grid(axis="x")
    axis.set_yticks(range(len(methods)), [LABELS.get(method, method) for method in methods])
    axis.set_ylim(-0.6, len(methods) - 0.4)
    axis.tick_params(axis="y", length=0)
    if exact:
        axis.set_xlim(0.0, 1.0)
        axis.set_xticks(np.linspace(0.0, 1.0, 5), ["0", ".25", ".5", ".75", "1"])
    axis.tick_params(labelbottom=True)
    for height, method in enumerate(methods):
        if method not in estimates:
            continue
        estimate, ours = estimates[method], method == focus
        colour = BLUE if ours else SKY if method.startswith(f"{focus}_") else GREY
        if ours:
            axis.axhspan(height - 0.45, height + 0.45, color=BLUE, alpha=0.08, linewidth=0)
        axis.plot([estimate.low, estimate.high], [height, height], color=colour, linewidth=2.0, solid_capstyle="butt")
        axis.plot(estimate.mean, height, "o", color=colour, markersize=7 if ours else 5.5)
        # Outside the axes: a figure must not lie on a whisker.
        axis.annotate(
            f"{estimate.mean:.2f}" if exact else f"{estimate.mean:.0f}",
            (1.02, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            weight="bold" if ours else "normal",
            color=colour if ours else INK,
        )


def _limit_spikes(axis: Any, raw: Sequence[Scores], smoothed: Sequence[Scores]) -> None:
    """A few wild steps must not squeeze the curve into a line."""
    finite = np.concatenate([values[np.isfinite(values)] for values in [*raw, *smoothed]])
    if len(finite) == 0:
        return
    low, high = np.quantile(finite, [0.002, 0.998])
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axis.set_ylim(low - margin, high + margin)

"""Plots over support sizes, as PNG files: learning curves, shots-to-match, accuracy against size.

In: a `Summary` of results at comparable encoders (`at_every_size`), or matches.  Out: PNG files.
A panel shows the focus and the best few of each family (`pipeline.evaluation.families`); tables have all methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.families import FAMILIES, OTHER, best_of_families, family_of, spread
from pipeline.evaluation.figures import GREY, INK, canvas, figure
from pipeline.evaluation.results import shots_label, shots_order
from pipeline.evaluation.shots_to_match import Match
from pipeline.evaluation.summary import LABELS, Cell, Summary

_COLUMNS = 3
_DASHES = ("-", "--", ":", "-.")


def plot_learning_curves(summary: Summary, path: Path, *, shots: int = 32, each: int = 2) -> None:
    """Score by number of pairs: a panel of the mean, and one a modality; bands are bootstrap intervals.

    Shown are the focus and the `each` best methods of each family at `shots`, of those scored at several sizes.
    """
    exact = summary.exact
    curves = {method: _curve(summary, method, None) for method in summary.methods}
    scores = {
        method: summary.means[method, shots].score(exact).mean
        for method, points in curves.items()
        if len(points) > 1 and (method, shots) in summary.means
    }
    if not scores:
        raise ValueError(f"a learning curve needs a method at {shots} shots and one more size, got none")
    shown = best_of_families(scores, focus=summary.focus, each=each)
    datasets = summary.datasets if len(summary.datasets) > 1 else []
    rows = math.ceil(len(datasets) / _COLUMNS)
    with canvas((10.5, 5.2 + 2.3 * rows)) as drawn:
        # Small panels below take the whole width; the names beside the curves need a quarter of it.
        grid = drawn.add_gridspec(1 + rows, 4 * _COLUMNS, height_ratios=[2.0] + [1.0] * rows)
        top = drawn.add_subplot(grid[0, : 3 * _COLUMNS])
        title = f"mean of {len(datasets)} modalities" if datasets else summary.datasets[0]
        _panel(top, summary, None if datasets else summary.datasets[0], shown, exact)
        top.set(title=title, xlabel="pairs (logarithmic)")
        _label_ends(top, summary, None if datasets else summary.datasets[0], shown, exact)
        for number, dataset in enumerate(datasets):
            row, column = divmod(number, _COLUMNS)
            axis = drawn.add_subplot(grid[1 + row, 4 * column : 4 * column + 4], sharey=top)
            _panel(axis, summary, dataset, shown, exact)
            axis.set_title(dataset)
            axis.tick_params(labelsize=7.5, labelleft=column == 0)
        _headline(drawn, f"Learning curves: {_metric(exact)}")
        drawn.supxlabel(
            f"the best {each} methods of each family at {shots} pairs; {_level(summary)}", fontsize=9, color=GREY
        )
        drawn.savefig(path)


def plot_shots_to_match(matches: Sequence[Match], method: str, path: Path, *, confidence: float = 0.95) -> None:
    """Bars from the method's own number of pairs to what each baseline needs; an arrow where it is censored."""
    rows = sorted((match for match in matches if match.method == method), key=lambda match: -match.pairs)
    if not rows:
        raise ValueError(f"{method} is matched with no baseline, so there is nothing to plot")
    shots = rows[0].shots
    # Half an octave beyond the curves for what is censored.
    low, high = min(match.fewest for match in rows) / 2**0.5, max(match.most for match in rows) * 2**0.5
    with figure(1, 1, figsize=(8.5, 1.6 + 0.3 * len(rows))) as (drawn, axes):
        axis = axes[0, 0]
        for height, match in enumerate(rows):
            pairs, left, right = (min(max(value, low), high) for value in (match.pairs, match.low, match.high))
            colour = family_of(match.baseline).colour
            axis.barh(height, pairs - shots, left=shots, height=0.62, color=colour, alpha=0.35)
            axis.plot([left, right], [height, height], color=colour, linewidth=2.0, solid_capstyle="butt")
            for value, place in ((match.low, left), (match.high, right)):
                if math.isinf(value):
                    axis.plot(place, height, marker=">" if value > 0 else "<", color=colour, markersize=7)
            if math.isfinite(match.pairs):
                axis.plot(pairs, height, family_of(match.baseline).marker, color=colour, markersize=6)
            text = match.text(match.pairs)
            if not match.low == match.pairs == match.high:
                text += f"  [{match.text(match.low)}, {match.text(match.high)}]"
            axis.annotate(text, (1.02, height), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axis.axvline(shots, color=INK, linewidth=1.2)
        axis.set_yticks(range(len(rows)), [_label(match.baseline) for match in rows])
        axis.tick_params(axis="y", length=0)
        axis.set_xscale("log", base=2)
        axis.set_xlim(low / 2**0.25, high * 2**0.25)
        axis.set_ylim(-0.7, len(rows) - 0.3)
        ticks = [2.0**power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(axis="x")
        drawn.suptitle(
            f"Pairs that others need to equal {_label(method)} at {shots}",
            x=0.01,
            ha="left",
            fontsize=13,
            weight="bold",
        )
        drawn.supxlabel(
            f"pairs (logarithmic); {confidence:.0%} bootstrap intervals; arrows: beyond the sizes that were tried",
            fontsize=9,
            color=GREY,
        )
        drawn.savefig(path)


def plot_pareto(summary: Summary, path: Path, *, shots: int = 32) -> None:
    """Score against deployed parameters; a dotted line joins the best for their size.

    Methods that are given the attributes are no part of the line: they write no caption without them.
    """
    exact = summary.exact
    cells = {method: cell for (method, size), cell in summary.means.items() if size == shots}
    if not cells:
        raise ValueError(f"there are no results at {shots} shots; there are at {_sizes(summary)}")
    positive = [cell.deployed_parameters for cell in cells.values() if cell.deployed_parameters] or [1]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)) + 1e-9)
    x = {m: math.log10(c.deployed_parameters) if c.deployed_parameters else first - 0.5 for m, c in cells.items()}
    score = {method: cell.score(exact) for method, cell in cells.items()}
    means = {method: estimate.mean for method, estimate in score.items()}
    with figure(1, 1, figsize=(9.5, 5.6)) as (drawn, axes):
        axis = axes[0, 0]
        for method, estimate in score.items():
            colour = family_of(method).colour
            axis.plot([x[method]] * 2, [estimate.low, estimate.high], color=colour, linewidth=1.6, alpha=0.6)
            axis.plot(x[method], estimate.mean, family_of(method).marker, color=colour, markersize=7)
        _draw_front(axis, x, means, last)
        zero = any(cell.deployed_parameters == 0 for cell in cells.values())
        ticks = ([first - 0.5] if zero else []) + [float(power) for power in range(first, last + 1)]
        axis.set_xticks(ticks, ["0" if tick < first else _power(int(tick)) for tick in ticks])
        axis.set_xlim(first - 0.8 if zero else first - 0.1, last + 0.05)
        if exact:
            axis.set_ylim(-0.02, 1.02)
        _label_points(axis, list(cells), x, means, summary.focus)
        axis.grid(axis="y")
        axis.set(xlabel="deployed parameters (logarithmic)", ylabel=_metric(exact))
        used = [family for family in (*FAMILIES, OTHER) if any(family_of(method) == family for method in cells)]
        for family in used:
            axis.plot([], [], family.marker, color=family.colour, label=family.name)
        drawn.legend(frameon=False, fontsize=8.5, loc="outside lower center", ncols=4)
        drawn.suptitle(
            f"{_metric(exact).capitalize()} at {shots} pairs against size",
            x=0.01,
            ha="left",
            fontsize=13,
            weight="bold",
        )
        drawn.savefig(path)


def _draw_front(axis: Any, x: Mapping[str, float], means: Mapping[str, float], last: float) -> None:
    """Steps through the methods that score more than all smaller ones."""
    front, best = [], -math.inf
    for method in sorted(x, key=lambda method: (x[method], -means[method])):
        if means[method] > best and not family_of(method).upper_bound:
            front.append(method)
            best = means[method]
    places, heights = [*(x[method] for method in front), last], [*(means[method] for method in front), best]
    axis.step(places, heights, where="post", color=GREY, linewidth=1.0, linestyle=":", zorder=1)


def _curve(summary: Summary, method: str, dataset: str | None) -> list[Cell]:
    """Cells by size; of the mean only sizes that cover every dataset of the method."""
    if dataset is not None:
        return [summary.cells[dataset, method, s] for s in summary.shots if (dataset, method, s) in summary.cells]
    cells = [summary.means[method, s] for s in sorted(summary.shots, key=shots_order) if (method, s) in summary.means]
    widest = max((len(cell.datasets) for cell in cells), default=0)
    return [cell for cell in cells if len(cell.datasets) == widest]


def _panel(axis: Any, summary: Summary, dataset: str | None, methods: Sequence[str], exact: bool) -> None:
    for method in reversed(methods):  # the best on top
        points, family, ours = _curve(summary, method, dataset), family_of(method), method == summary.focus
        if not points:
            continue
        better = [other for other in methods[: methods.index(method)] if other != summary.focus]
        rank = 0 if ours else sum(family_of(other) == family for other in better)
        if not ours and family_of(summary.focus) == family:
            rank += 1  # the solid line of this family is the focus
        estimates = [cell.score(exact) for cell in points]
        pairs = [cell.pairs for cell in points]
        axis.fill_between(
            pairs, [e.low for e in estimates], [e.high for e in estimates], color=family.colour, alpha=0.1, linewidth=0
        )
        axis.plot(
            pairs,
            [e.mean for e in estimates],
            color=family.colour,
            linestyle=_DASHES[rank % len(_DASHES)],
            marker=family.marker,
            markersize=5 if ours else 3.5,
            linewidth=2.6 if ours else 1.5,
        )
    axis.set_xscale("log", base=2)
    axis.minorticks_off()
    sizes = {cell.pairs: size for m in methods for size, cell in _sized(summary, m, dataset).items()}
    axis.set_xticks(sorted(sizes), ["\nfull" if sizes[p] is None else shots_label(sizes[p]) for p in sorted(sizes)])
    axis.grid(axis="y")
    if exact:
        axis.set_ylim(0.0, 1.0)


def _sized(summary: Summary, method: str, dataset: str | None) -> dict[int | None, Cell]:
    source = summary.means if dataset is None else {(m, s): c for (d, m, s), c in summary.cells.items() if d == dataset}
    return {size: cell for (name, size), cell in source.items() if name == method}


def _label_ends(axis: Any, summary: Summary, dataset: str | None, methods: Sequence[str], exact: bool) -> None:
    """Names beside the last points, moved apart, each with a line to its curve."""
    ends = [(_curve(summary, method, dataset)[-1]) for method in methods]
    heights = [cell.score(exact).mean for cell in ends]
    low, high = axis.get_ylim()
    places = spread(heights, 0.062 * (high - low), low, high)
    for method, cell, height, place in zip(methods, ends, heights, places, strict=True):
        name = _name_beside(axis, method, (cell.pairs, height), place, focus=summary.focus, size=9, line=(0.6, 0.6))
        name.set_in_layout(False)


def _label_points(axis: Any, methods: Sequence[str], x: dict[str, float], means: dict[str, float], focus: str) -> None:
    low, high = axis.get_ylim()
    places = spread([means[method] for method in methods], 0.046 * (high - low), low, high)
    for method, place in zip(methods, places, strict=True):
        _name_beside(axis, method, (x[method], means[method]), place, focus=focus, size=8.5, line=(0.5, 0.4))


def _name_beside(
    axis: Any,
    method: str,
    point: tuple[float, float],
    height: float,
    *,
    focus: str,
    size: float,
    line: tuple[float, float],
) -> Any:
    """A method's name to the right of the axes, with a line (width, alpha) to its point."""
    colour, (width, alpha) = family_of(method).colour, line
    return axis.annotate(
        _label(method),
        point,
        xytext=(1.03, height),
        textcoords=("axes fraction", "data"),
        va="center",
        fontsize=size,
        weight="bold" if method == focus else "normal",
        color=colour,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": width, "alpha": alpha, "relpos": (0, 0.5)},
    )


def _headline(drawn: Any, text: str) -> None:
    drawn.suptitle(text, x=0.01, ha="left", fontsize=13, weight="bold")


def _metric(exact: bool) -> str:
    return "exact attribute accuracy" if exact else "CIDEr-D"


def _level(summary: Summary) -> str:
    return f"{summary.confidence:.0%} bootstrap intervals over draws and test samples"


def _label(method: str) -> str:
    return LABELS.get(method, method)


def _sizes(summary: Summary) -> str:
    return ", ".join(map(shots_label, summary.shots))


def _power(exponent: int) -> str:
    return {3: "1k", 4: "10k", 5: "100k", 6: "1M", 7: "10M", 8: "100M", 9: "1G"}.get(exponent, f"{10**exponent:g}")

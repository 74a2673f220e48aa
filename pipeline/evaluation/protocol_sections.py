"""Sections of a report over several support sizes, as Markdown.

In: a `Summary` (for curves: of results at comparable encoders, `at_every_size`) and matches.
Out: GitHub Markdown, one string a section, without a heading.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.families import FAMILIES, family_of
from pipeline.evaluation.markdown import interval, label, signed, table
from pipeline.evaluation.protocol import Estimate
from pipeline.evaluation.results import shots_label
from pipeline.evaluation.shots_to_match import Match
from pipeline.evaluation.summary import Cell, Comparison, Summary


def learning_curve_table(summary: Summary, *, shots: int = 32) -> str:
    """Mean score of every method at every support size, the best at `shots` first and the best of a size bold."""
    exact = summary.exact
    means = {key: cell.score(exact).mean for key, cell in summary.means.items()}
    order = sorted(summary.methods, key=lambda method: -means.get((method, shots), -1.0))
    best = {
        size: max(
            (m for m in order if (m, size) in means and not family_of(m).upper_bound),
            key=lambda method: means[method, size],
            default=None,
        )
        for size in summary.shots
    }
    digits, partial = (3 if exact else 1), False
    rows = []
    for method in order:
        cells = []
        for size in summary.shots:
            cell = summary.means.get((method, size))
            if cell is None:
                cells.append("")
                continue
            text = f"{means[method, size]:.{digits}f}"
            fewer = len(cell.datasets) < len(summary.datasets)
            partial = partial or fewer
            cells.append((f"**{text}**" if best[size] == method else text) + ("*" if fewer else ""))
        rows.append((label(method), *cells))
    note = (
        f"{_metric(exact)}, mean over modalities; bold: the best of a column, without methods that are given the "
        "attributes. Intervals are in the plots and in `report.json`."
    )
    if partial:
        note += " `*`: not all modalities have so many pairs."
    return f"{note}\n\n{table(('method', *map(shots_label, summary.shots)), rows)}"


def shots_to_match_table(matches: Sequence[Match], focus: str) -> str:
    """What each baseline needs to equal `focus`, with intervals; below it, folded, the same for every other method."""
    ours = sorted((match for match in matches if match.method == focus), key=lambda match: -match.pairs)
    parts = []
    if ours:
        shots = ours[0].shots
        rows = [
            (
                label(match.baseline),
                match.text(match.pairs),
                f"[{match.text(match.low)}, {match.text(match.high)}]",
                _times(match),
                str(len(match.datasets)),
            )
            for match in ours
        ]
        note = (
            f"Pairs that a method needs to equal {label(focus)} at {shots} ({_unit(ours[0])} {_target(ours[0])}), read "
            "off its mean curve by straight lines in log2(pairs), at the first crossing. `>` and `<`: beyond the sizes "
            "that were tried."
        )
        parts = [note, table(("method", "pairs", "interval", f"times {shots}", "modalities"), rows)]
    if matches:
        parts += [
            "<details><summary>Every method against every other</summary>",
            f"Pairs that the method of a column needs to equal the method of a row at {matches[0].shots}.",
            _matrix(matches),
            "</details>",
        ]
    return "\n\n".join(parts) if parts else "There is nothing to match: no method was scored at several sizes."


def cost_table(summary: Summary, *, shots: int = 32) -> str:
    """Parameters, seconds and memory beside the score at one support size, the best first."""
    exact = summary.exact
    rows = [
        (
            label(method),
            interval(cell.score(exact), 3 if exact else 1),
            f"{cell.trained_parameters:,}",
            f"{cell.deployed_parameters:,}",
            f"{cell.seconds:.2f}",
            f"{cell.peak_bytes / 2**20:,.0f}",
        )
        for method, cell in _ranked(summary, shots, exact)
    ]
    header = ("method", _metric(exact), "trained parameters", "deployed parameters", "seconds", "memory, MiB")
    note = (
        f"At {shots} pairs, means over fits. Seconds: from the support to a method ready to caption, on one worker; of "
        "fits that were made together, a share. Memory: the same of the most that they added to their process; what "
        "earlier fits of the process left is used again and not counted."
    )
    return f"{note}\n\n{table(header, rows)}"


def controls_table(summary: Summary, *, shots: int = 32) -> str:
    """The focus minus each control, and whether their intervals are apart."""
    exact = summary.exact
    pairs = {pair.baseline: pair for pair in summary.comparisons if pair.shots == shots}
    names = [name for family in FAMILIES if family.control for name in family.methods if name in pairs]
    if not names:
        return f"There are no controls at {shots} pairs."
    focus, digits = summary.means[summary.focus, shots], 3 if exact else 1
    rows = [
        (
            label(name),
            interval(summary.means[name, shots].score(exact), digits),
            signed(_difference(pairs[name], exact), digits),
            "yes" if _apart(focus.score(exact), summary.means[name, shots].score(exact)) else "**no**",
        )
        for name in names
    ]
    note = (
        f"{label(summary.focus)} at {shots} pairs: {_metric(exact)} {interval(focus.score(exact), digits)}. Each "
        "control must be worse; apart: its whole interval lies below that of the true support."
    )
    header = ("control", _metric(exact), f"{label(summary.focus)} minus it", "apart")
    return f"{note}\n\n{table(header, rows)}"


def _ranked(summary: Summary, shots: int, exact: bool) -> list[tuple[str, Cell]]:
    cells = [(method, cell) for (method, size), cell in summary.means.items() if size == shots]
    return sorted(cells, key=lambda item: -item[1].score(exact).mean)


def _matrix(matches: Sequence[Match]) -> str:
    methods = list(dict.fromkeys(match.method for match in matches))
    baselines = list(dict.fromkeys(match.baseline for match in matches))
    found = {(match.method, match.baseline): match for match in matches}
    rows = [
        (
            label(method),
            *(m.text(m.pairs) if (m := found.get((method, baseline))) else "" for baseline in baselines),
        )
        for method in methods
    ]
    return table(("to equal", *map(label, baselines)), rows)


def _times(match: Match) -> str:
    ratio = {float("inf"): match.most, float("-inf"): match.fewest}.get(match.pairs, match.pairs) / match.shots
    sign = {float("inf"): "> ", float("-inf"): "< "}.get(match.pairs, "")
    return f"{sign}{ratio:.2f}" if ratio < 10 else f"{sign}{ratio:.0f}"


def _unit(match: Match) -> str:
    return "attribute accuracy" if match.metric == "attribute_accuracy" else "CIDEr-D"


def _target(match: Match) -> str:
    return f"{match.target:.3f}" if match.metric == "attribute_accuracy" else f"{match.target:.1f}"


def _apart(ours: Estimate, control: Estimate) -> bool:
    return ours.low > control.high


def _difference(pair: Comparison, exact: bool) -> Estimate | None:
    return pair.attribute_accuracy if exact else pair.cider_d


def _metric(exact: bool) -> str:
    return "attribute accuracy" if exact else "CIDEr-D"

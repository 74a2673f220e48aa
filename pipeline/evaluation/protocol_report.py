"""What a protocol of several support sizes adds to a report: learning curves, shots-to-match, costs and controls.

In: results at several support sizes.  Out: `<directory>/sample_efficiency.md`, its plots, `shots_to_match.parquet`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.artifacts import write_text_atomic
from pipeline.evaluation.learning_curves import plot_learning_curves, plot_pareto, plot_shots_to_match
from pipeline.evaluation.protocol_sections import (
    controls_table,
    cost_table,
    learning_curve_table,
    shots_to_match_table,
)
from pipeline.evaluation.results import Result, shots_label, shots_order
from pipeline.evaluation.shots_to_match import Match, shots_to_match
from pipeline.evaluation.summary import IntervalSettings, Summary, at_every_size, summarise

PROTOCOL_MARKDOWN = "sample_efficiency.md"
PROTOCOL_PLOTS = "sample_efficiency"
_READING = (
    "Curves and matches are over the encoders that were scored at every size; costs and controls over all encoders. "
    "Where draws and seeds are crossed, seeds are averaged first, so that an interval is narrower than at "
    "sizes with one fit a draw. `full` is one draw: its interval is over test samples alone."
)
HEADLINE = 32
MATCHES = "shots_to_match.parquet"


def headline_shots(results: Sequence[Result]) -> int | None:
    """The support size that is shown first: 32, the method's own, or else the smallest that was scored."""
    sizes = {result.shots for result in results}
    return HEADLINE if HEADLINE in sizes else min(sizes, key=shots_order)


def write_protocol(
    directory: Path,
    results: Sequence[Result],
    summary: Summary,
    *,
    shots: int | None,
    origin: str,
    settings: IntervalSettings,
) -> None:
    """Write the sections; `summary` is that of all results, `shots` the support size that everything is matched to."""
    if shots is None:
        raise ValueError("a protocol of several support sizes needs one that is a number of pairs")
    curves = summarise(at_every_size(results), focus=summary.focus, settings=settings)
    matches = shots_to_match(results, shots=shots, settings=settings)
    plots = directory / PROTOCOL_PLOTS
    plots.mkdir(parents=True, exist_ok=True)
    plot_learning_curves(curves, plots / "learning_curves.png", shots=shots)
    plot_shots_to_match(matches, summary.focus, plots / "shots_to_match.png", confidence=settings.confidence)
    plot_pareto(summary, plots / "score_and_size.png", shots=shots)
    _save(directory / MATCHES, matches)
    parts = [
        f"# Sample efficiency at {shots} pairs and around",
        "## Learning curves",
        f"![Learning curves]({PROTOCOL_PLOTS}/learning_curves.png)",
        learning_curve_table(curves, shots=shots),
        "## Shots to match",
        f"![Shots to match]({PROTOCOL_PLOTS}/shots_to_match.png)",
        shots_to_match_table(matches, summary.focus),
        f"## Cost at {shots} pairs",
        f"![Score and size]({PROTOCOL_PLOTS}/score_and_size.png)",
        cost_table(summary, shots=shots),
        f"## Controls at {shots} pairs",
        controls_table(summary, shots=shots),
        "## How to read this",
        f"Support sizes: {', '.join(map(shots_label, summary.shots))}. {_READING}",
        f"Written from {origin}.",
    ]
    write_text_atomic(directory / PROTOCOL_MARKDOWN, "\n\n".join(parts) + "\n")


def _save(path: Path, matches: Sequence[Match]) -> None:
    rows = [dataclasses.asdict(match) | {"datasets": list(match.datasets)} for match in matches]
    pq.write_table(pa.Table.from_pylist(rows), path)

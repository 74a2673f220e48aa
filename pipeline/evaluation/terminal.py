"""The table that a job prints last; it fits 80 columns.

In: a `Summary`.  Out: a `rich` table.
"""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table

from pipeline.evaluation.markdown import interval, label, ranked, signed
from pipeline.evaluation.results import shots_label
from pipeline.evaluation.summary import Summary


def results_table(summary: Summary) -> Table:
    """Methods from best to worst on the mean over modalities, support size by support size, the focus in bold."""
    exact = summary.exact
    title = f"Mean over {len(summary.datasets)} held-out modalities: {', '.join(summary.datasets)}"
    note = f"[low, high]: {summary.confidence:.0%} bootstrap; differences paired by draw and test sample"
    table = Table(
        title=title,
        caption=escape(note),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method")  # the one that may wrap: a number that is cut off is none
    for name in ("attribute accuracy" if exact else "CIDEr-D", "CIDEr-D" if exact else "BLEU-4"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"{label(summary.focus)} minus it", justify="right", no_wrap=True)
    pairs = {(pair.baseline, pair.shots): pair for pair in summary.comparisons}
    size: int | None = 0
    for shots, method, cell in ranked(summary):
        if shots != size:
            size = shots
            table.add_section()
            table.add_row(f"at {shots_label(shots)} shots", style="dim")
        pair = pairs.get((method, shots))
        difference = (signed(pair.attribute_accuracy, 3) if exact else signed(pair.cider_d, 1)) if pair else ""
        table.add_row(
            label(method),
            escape(interval(cell.score(exact), 3 if exact else 1)),
            f"{cell.cider_d.mean:.1f}" if exact else f"{cell.bleu_4:.1f}",
            escape(difference),
            style="bold" if method == summary.focus else None,
        )
    return table

"""`report.md`: what came out, for whom to read first to last.

In: a `Summary`, its results and the plots' paths.  Out: GitHub Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.evaluation.protocol import Estimate
from pipeline.evaluation.results import Result, shots_label, shots_order
from pipeline.evaluation.summary import LABELS, Cell, Summary

SAMPLES_SHOWN = 3


def render_markdown(
    summary: Summary,
    results: Sequence[Result],
    images: Mapping[str, str],
    *,
    title: str,
    timings_s: Mapping[str, float],
    peak_rss_bytes: int,
    origin: str,
) -> str:
    """The whole report; `images` maps a caption to a path relative to it."""
    draws = sorted({cell.draws for cell in summary.cells.values()})
    about = (
        f"Intervals: {summary.confidence:.0%} bootstrap over support draws ({', '.join(map(str, draws))}) and test "
        f"samples, {summary.resamples:,} resamples. Attribute accuracy: the share of a sample's attributes whose true "
        f"value, and no other, is in the caption. CIDEr-D, BLEU-4 and ROUGE-L x100, over lower-cased words. "
        "R@1 x100: how often the reference that is nearest to a caption, by the run's text encoder, is its own."
    )
    parts = [
        f"# {title}",
        headline(summary),
        "## Mean over held-out modalities",
        _means(summary),
        "## Paired differences",
        _comparisons(summary),
        *[f"![{caption}]({path})" for caption, path in images.items()],
        "## By modality",
        _modalities(summary),
        "## Captions",
        f"The first {SAMPLES_SHOWN} test samples of each modality, not chosen; first encoder, first draw.",
        _captions(summary, results),
        "## Time and memory",
        table(
            ("stage", "seconds"),
            [*((stage, f"{seconds:.1f}") for stage, seconds in timings_s.items())],
        ),
        f"Peak memory of the process tree: {peak_rss_bytes / 2**30:.2f} GiB.",
        "## How to read this",
        about,
        f"Written from {origin}.",
    ]
    return "\n\n".join(parts) + "\n"


def headline(summary: Summary) -> str:
    """The result in one sentence for each support size."""
    sentences = []
    for shots in summary.shots:
        cell = summary.means.get((summary.focus, shots))
        if cell is None:
            continue
        unit = "attribute accuracy" if cell.attribute_accuracy else "CIDEr-D"
        title = f"{label(summary.focus)} at {shots_label(shots)} shots"
        text = f"**{title}: {unit} {_main(cell)} on {', '.join(cell.datasets)}**"
        pairs = {pair.baseline: pair for pair in summary.comparisons if pair.shots == shots}
        for baseline in ("scratch", f"{summary.focus}_shuffled_text"):
            if pair := pairs.get(baseline):
                text += f"; minus {label(baseline)}: {_difference(pair.attribute_accuracy, pair.cider_d)}"
        sentences.append(text + ".")
    return "\n\n".join(sentences)


def label(method: str) -> str:
    """How a method is called."""
    return LABELS.get(method, method)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars and line breaks in cells are made harmless."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def interval(estimate: Estimate | None, digits: int) -> str:
    """A mean with its interval."""
    if estimate is None:
        return "-"
    return f"{estimate.mean:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def signed(estimate: Estimate | None, digits: int) -> str:
    """A difference with its interval."""
    if estimate is None:
        return "-"
    return f"{estimate.mean:+.{digits}f} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"


def _main(cell: Cell) -> str:
    return interval(cell.attribute_accuracy, 3) if cell.attribute_accuracy else interval(cell.cider_d, 1)


def _difference(accuracy: Estimate | None, cider: Estimate) -> str:
    return signed(accuracy, 3) if accuracy else signed(cider, 1)


def _means(summary: Summary) -> str:
    metrics = ("attribute accuracy", "CIDEr-D", "BLEU-4", "ROUGE-L", "R@1")
    header = ("method", "shots", *metrics, "trained", "deployed", "seconds")
    rows = [
        (
            label(method),
            shots_label(shots),
            interval(cell.attribute_accuracy, 3),
            interval(cell.cider_d, 1),
            f"{cell.bleu_4:.1f}",
            f"{cell.rouge_l:.1f}",
            "-" if cell.recall_at_1 is None else f"{cell.recall_at_1:.1f}",
            f"{cell.trained_parameters:,}",
            f"{cell.deployed_parameters:,}",
            f"{cell.seconds:.2f}",
        )
        for shots, method, cell in ranked(summary)
    ]
    return table(header, rows)


def ranked(summary: Summary) -> list[tuple[int | None, str, Cell]]:
    """(shots, method, mean cell): by support size, the best first."""
    means = [(shots, method, cell) for (method, shots), cell in summary.means.items()]
    return sorted(means, key=lambda item: (shots_order(item[0]), -_rank(item[2])))


def _rank(cell: Cell) -> float:
    return (cell.attribute_accuracy or cell.cider_d).mean


def _comparisons(summary: Summary) -> str:
    if not summary.comparisons:
        return "There is nothing to compare with."
    header = (f"{label(summary.focus)} minus", "shots", "attribute accuracy", "CIDEr-D", "modalities")
    rows = [
        (
            label(pair.baseline),
            shots_label(pair.shots),
            signed(pair.attribute_accuracy, 3),
            signed(pair.cider_d, 1),
            str(len(pair.datasets)),
        )
        for pair in sorted(summary.comparisons, key=lambda pair: shots_order(pair.shots))
    ]
    return table(header, rows)


def _modalities(summary: Summary) -> str:
    header = ("method", "shots", *summary.datasets)
    rows = []
    for shots, method, _ in ranked(summary):
        cells = [summary.cells.get((dataset, method, shots)) for dataset in summary.datasets]
        rows.append((label(method), shots_label(shots), *(_main(cell) if cell else "-" for cell in cells)))
    return table(header, rows)


def _captions(summary: Summary, results: Sequence[Result]) -> str:
    shots = summary.shots[0]
    first: dict[tuple[str, str], Result] = {}
    for result in results:
        if result.shots == shots and result.draw == 0 and result.seed == 0:
            first.setdefault((result.dataset, result.method), result)
    methods = [method for method in (summary.focus, "scratch") if method in summary.methods] or summary.methods[:1]
    rows = []
    for dataset in summary.datasets:
        shown = [first[dataset, method].samples for method in methods if (dataset, method) in first]
        if len(shown) == len(methods):
            rows += [
                (dataset, shown[0].references[index], *(samples.captions[index] for samples in shown))
                for index in range(min(SAMPLES_SHOWN, len(shown[0].ids)))
            ]
    return table(
        ("modality", "reference", *(f"{label(method)}, {shots_label(shots)} shots" for method in methods)), rows
    )

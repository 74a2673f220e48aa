"""The report of a run: `report.json`, `report.md`, plots and the tables behind them.

In: results, what is known of the run, and training curves.  Out: a folder that can be read without this project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.artifacts import write_text_atomic
from pipeline.evaluation.markdown import render_markdown
from pipeline.evaluation.plots import Curve, plot_accuracy, plot_curves
from pipeline.evaluation.protocol import Estimate
from pipeline.evaluation.provenance import Commit
from pipeline.evaluation.results import RETRIEVAL_METRICS, TEXT_METRICS, Result, save_results, shots_label
from pipeline.evaluation.summary import DEFAULT_INTERVALS, Cell, IntervalSettings, Summary, summarise

REPORT_FORMAT = 1
REPORT_JSON = "report.json"
REPORT_MARKDOWN = "report.md"
PLOTS = "plots"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a report says of the run besides its scores."""

    name: str
    commit: Commit
    config_fingerprint: str
    seed: int
    timings_s: Mapping[str, float]
    """Wall-clock seconds by stage, in order."""
    peak_rss_bytes: int
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON values, such as the hypernetwork's kind."""


def write_report(
    directory: Path,
    results: Sequence[Result],
    facts: RunFacts,
    *,
    curves: Mapping[str, Sequence[Curve]] | None = None,
    focus: str = "semi",
    settings: IntervalSettings = DEFAULT_INTERVALS,
) -> Summary:
    """Write the whole report below `directory`; `curves` maps a plot's title to what it shows."""
    (directory / PLOTS).mkdir(parents=True, exist_ok=True)
    summary = summarise(results, focus=focus, settings=settings)
    save_results(directory, results)
    images = _write_plots(directory, summary, curves or {})
    text = json.dumps(report_json(summary, facts), indent=2, allow_nan=False, ensure_ascii=False)
    write_text_atomic(directory / REPORT_JSON, text + "\n")
    markdown = render_markdown(
        summary,
        results,
        images,
        title=facts.name,
        timings_s=facts.timings_s,
        peak_rss_bytes=facts.peak_rss_bytes,
        origin=f"commit `{facts.commit}`, configuration `{facts.config_fingerprint}`, seed {facts.seed}",
    )
    write_text_atomic(directory / REPORT_MARKDOWN, markdown)
    return summary


def report_json(summary: Summary, facts: RunFacts) -> dict[str, Any]:
    """Everything in plain JSON values; scores as `<metric>` with `<metric>_interval` beside it."""
    held_out: dict[str, Any] = {}
    for (dataset, method, shots), cell in summary.cells.items():
        sizes = held_out.setdefault(dataset, {}).setdefault(method, {"shots": {}})["shots"]
        sizes[shots_label(shots)] = _cell(cell) | {"encoders": cell.encoders, "per_attribute": cell.per_attribute}
    mean: dict[str, Any] = {}
    for (method, shots), cell in summary.means.items():
        sizes = mean.setdefault(method, {"shots": {}})["shots"]
        sizes[shots_label(shots)] = _cell(cell) | {"modalities": list(cell.datasets)}
    comparisons: dict[str, Any] = {}
    for pair in summary.comparisons:
        sizes = comparisons.setdefault(pair.method, {}).setdefault(pair.baseline, {"shots": {}})["shots"]
        sizes[shots_label(pair.shots)] = {
            **_estimate("attribute_accuracy", pair.attribute_accuracy),
            **_estimate("cider_d", pair.cider_d),
            "modalities": list(pair.datasets),
        }
    return {
        "format": REPORT_FORMAT,
        "name": facts.name,
        "commit": facts.commit.sha,
        "commit_dirty": facts.commit.dirty,
        "config_fingerprint": facts.config_fingerprint,
        "seed": facts.seed,
        "intervals": {"confidence": summary.confidence, "resamples": summary.resamples},
        "held_out": held_out,
        "mean": mean,
        "comparisons": comparisons,
        "timings_s": {stage: round(seconds, 3) for stage, seconds in facts.timings_s.items()},
        "peak_rss_bytes": facts.peak_rss_bytes,
        "notes": dict(facts.notes),
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        **_estimate("attribute_accuracy", cell.attribute_accuracy),
        **_estimate("cider_d", cell.cider_d),
        **{name: getattr(cell, name) for name in (*TEXT_METRICS, *RETRIEVAL_METRICS)},
        "pairs": cell.pairs,
        "draws": cell.draws,
        "test_samples": cell.test_samples,
        "trained_parameters": cell.trained_parameters,
        "deployed_parameters": cell.deployed_parameters,
        "seconds": cell.seconds,
        "peak_bytes": cell.peak_bytes,
    }


def _estimate(name: str, estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {name: None, f"{name}_interval": None}
    return {name: estimate.mean, f"{name}_interval": [estimate.low, estimate.high]}


def _write_plots(directory: Path, summary: Summary, curves: Mapping[str, Sequence[Curve]]) -> dict[str, str]:
    """Caption -> path relative to the report, in the order of the report."""
    images: dict[str, str] = {}
    for shots in summary.shots:
        name = f"{PLOTS}/accuracy_{shots_label(shots)}_shots.png"
        plot_accuracy(summary, shots, directory / name)
        images[f"Accuracy by method and modality at {shots_label(shots)} shots"] = name
    for title, group in curves.items():
        name = f"{PLOTS}/{'_'.join(title.lower().replace('-', ' ').split())}.png"
        plot_curves(group, title, directory / name)
        images[title] = name
    return images

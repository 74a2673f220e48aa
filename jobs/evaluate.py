"""Score every method on the held-out modalities and write the report (METHOD section 5).

In: adapters of `integrate`, trained models, test rows.
Out: `<run>/report.json`, `report.md`, plots, `results.parquet`, `samples.parquet`; the same in MLflow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs._cli import console, job_parser, run_job, stage_progress
from jobs._run import CONFIG_FILE, Run, log_datasets, open_run, run_stage
from pipeline.config.artifacts import write_text_atomic
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import EvaluateConfig
from pipeline.evaluation.caption_page import caption_page
from pipeline.evaluation.markdown import headline
from pipeline.evaluation.plots import Curve
from pipeline.evaluation.protocol_report import (
    MATCHES,
    PROTOCOL_MARKDOWN,
    PROTOCOL_PLOTS,
    headline_shots,
    write_protocol,
)
from pipeline.evaluation.report import PLOTS, REPORT_JSON, REPORT_MARKDOWN, RunFacts, write_report
from pipeline.evaluation.results import Result, caption_table, load_results
from pipeline.evaluation.summary import IntervalSettings, Summary, summarise
from pipeline.evaluation.terminal import results_table
from pipeline.runtime.fanout import fan_out
from pipeline.runtime.identities import identities
from pipeline.tracking import Tracker
from pipeline.training.metrics_log import METRICS, MetricsLog

_SHOWN_CAPTIONS = 8
CAPTION_PAGE = "captions.html"


def run(run: Run) -> None:
    """Score, report and print the table; a finished evaluation is only printed."""
    identity = identities(run.config, run.directory).evaluate

    def work(tracked: Tracker) -> dict[str, Any]:
        began = time.perf_counter()
        log_datasets(run, tracked, "evaluation", run.config.evaluate.on)
        results = _score(run, identity)
        summary = _report(run, results, seconds=time.perf_counter() - began)
        _log(run, tracked, summary, results)
        return {"results": len(results)}

    folder = run.config.evaluate.folder
    run_stage(run, folder, identity, work)
    results = load_results(_report_dir(run))
    shown = headline_shots(results)
    console.print(results_table(summarise([r for r in results if r.shots == shown], settings=_intervals(run))))
    names = [REPORT_MARKDOWN, *([PROTOCOL_MARKDOWN] if _several_sizes(results) else [])]
    console.print(f"report: {', '.join(str(_report_dir(run) / name) for name in names)}", soft_wrap=True)


def _several_sizes(results: Sequence[Result]) -> bool:
    return len({result.shots for result in results}) > 1


def _report_dir(run: Run) -> Path:
    """The run's own folder for its own protocol; another one's report stays beside its scores."""
    folder = run.config.evaluate.folder
    return run.directory if folder == EvaluateConfig.folder else run.directory / folder


def _score(run: Run, identity: str) -> list[Result]:
    # Not above: torch and transformers take seconds, and a finished stage needs neither.
    from pipeline.runtime.scoring import MethodCell, longest_first, method_cells, score_cell

    todo = method_cells(run.config, run.root, run.directory, identity)
    collected: dict[str, list[Result]] = {}
    with stage_progress("evaluate", total=len(todo), unit="cells") as advance:

        def on_done(cell: MethodCell, results: list[Result]) -> None:
            collected[cell.name] = results
            advance(note=cell.name)

        first = longest_first(todo)
        fan_out(score_cell, first, runtime=run.config.runtime, root=run.root, on_done=on_done, verbose=run.verbose)
    # In the configuration's order, whichever cell ended first.
    return [result for cell in todo for result in collected[cell.name]]


def _report(run: Run, results: Sequence[Result], *, seconds: float) -> Summary:
    summary = write_report(
        _report_dir(run),
        results,
        RunFacts(
            name=run.config.name,
            commit=run.commit,
            config_fingerprint=fingerprint(run.config),
            seed=run.config.seed,
            timings_s={**run.timings_s, "evaluate": seconds},
            peak_rss_bytes=run.peak_rss_bytes(),
            notes={"hypernet": run.config.hypernet.kind, "isometry": run.config.episodes.isometry},
        ),
        curves={
            "Projector pre-training": _curve(run, "pretrain_projector"),
            "Meta-training": _curve(run, "meta_train"),
        },
        settings=_intervals(run),
    )
    if _several_sizes(results):
        write_protocol(
            _report_dir(run),
            results,
            summary,
            shots=headline_shots(results),
            origin=f"commit `{run.commit}`, configuration `{fingerprint(run.config)}`, seed {run.config.seed}",
            settings=_intervals(run),
        )
    return summary


def _intervals(run: Run) -> IntervalSettings:
    evaluate = run.config.evaluate
    return IntervalSettings(resamples=evaluate.bootstrap, confidence=evaluate.confidence, seed=run.config.seed)


def _curve(run: Run, stage: str) -> list[Curve]:
    records = MetricsLog(run.directory / stage / METRICS).read()
    return [
        Curve(
            label="loss",
            steps=[record["step"] for record in records],
            values=[record["loss"] for record in records],
        )
    ]


def _log(run: Run, tracked: Tracker, summary: Summary, results: Sequence[Result]) -> None:
    scores: dict[str, float] = {}
    for (method, shots), cell in summary.means.items():
        scores[f"mean/{method}/shots_{shots}/cider_d"] = cell.cider_d.mean
        if cell.attribute_accuracy is not None:
            scores[f"mean/{method}/shots_{shots}/attribute_accuracy"] = cell.attribute_accuracy.mean
    for target in (tracked, run.tracker):
        target.log_metrics({name: round(score, 4) for name, score in scores.items()})  # `report.json` has every digit
        for name in (REPORT_JSON, REPORT_MARKDOWN):
            target.log_artifact(_report_dir(run) / name)
        target.log_artifact(_report_dir(run) / PLOTS)
    run.tracker.log_artifact(run.directory / CONFIG_FILE)
    if _several_sizes(results):
        for name in (PROTOCOL_MARKDOWN, PROTOCOL_PLOTS, MATCHES):
            tracked.log_artifact(_report_dir(run) / name)
    captions = caption_table(results, _SHOWN_CAPTIONS)
    page = _report_dir(run) / CAPTION_PAGE
    write_text_atomic(page, caption_page(captions, title=f"{run.config.name}: captions"))
    run.tracker.log_artifact(page)
    run.tracker.log_table("captions.json", captions)
    # Short names, the same at every support size: columns of the page that lists runs.
    if (main := summary.means.get((summary.focus, headline_shots(results)))) is not None:
        accuracy = main.attribute_accuracy
        result = {"cider_d": main.cider_d.mean} | ({"attribute_accuracy": accuracy.mean} if accuracy else {})
        run.tracker.log_metrics({name: round(value, 4) for name, value in result.items()})
    run.tracker.describe(headline(summary))


def main() -> None:
    """Entry point."""
    with open_run(job_parser(__doc__).parse_args(), "evaluate") as opened:
        run(opened)


if __name__ == "__main__":
    run_job(main)

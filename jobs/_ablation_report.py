"""What an ablation leaves: one table of all results, a page, a plot a factor; and the same in MLflow.

In: the factors and what became of their variants.  Out: `results.parquet`, `ablations.md` and `plots/` below the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs._run import Run
from pipeline.config.artifacts import write_text_atomic
from pipeline.config.fingerprint import fingerprint
from pipeline.config.variants import Factor, Variant
from pipeline.evaluation.ablation_plots import plot_factor
from pipeline.evaluation.ablations import FactorResults, FactorTable, VariantResults, compare, render_ablations
from pipeline.evaluation.results import RESULTS_FILE, Result
from pipeline.evaluation.summary import IntervalSettings, summarise
from pipeline.runtime.ablation import FOLDER, VariantJob

MARKDOWN, PLOTS = "ablations.md", "plots"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a variant."""

    job: VariantJob
    """Its work."""
    error: str | None
    """Why it failed; None: its results are there."""

    def of(self, variant: Variant) -> VariantResults:
        """As the report reads it."""
        results = () if self.error else self.job.results()
        return VariantResults(name=variant.name, changes=variant.changes, results=results, error=self.error)


def mean_scores(results: Sequence[Result]) -> dict[str, float]:
    """Scores of a variant's methods, the mean over modalities, as MLflow's metrics."""
    scores = {}
    for (method, _), cell in summarise(results, settings=IntervalSettings(resamples=2)).means.items():
        scores[f"mean/{method}/cider_d"] = cell.cider_d.mean
        if cell.attribute_accuracy is not None:
            scores[f"mean/{method}/attribute_accuracy"] = cell.attribute_accuracy.mean
    return scores


def write_ablations(run: Run, factors: Sequence[Factor], outcomes: Mapping[str, Outcome]) -> Path:
    """Write everything; returns the page."""
    folder = run.directory / FOLDER
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    evaluate = run.config.evaluate
    settings = IntervalSettings(resamples=evaluate.bootstrap, confidence=evaluate.confidence, seed=run.config.seed)
    tables, images = [], {}
    for factor in factors:
        table = compare(_results_of(factor, outcomes), settings)
        tables.append(table)
        if any(row.scores for row in table.rows):
            images[table.name] = f"{PLOTS}/{table.name}.png"
            plot_factor(table, folder / images[table.name], confidence=settings.confidence)
    page = render_ablations(
        tables,
        images,
        title=f"Ablations: {run.config.name}",
        setting=_setting(run),
        origin=f"commit `{run.commit}`, configuration `{fingerprint(run.config)}`, seed {run.config.seed}",
    )
    write_text_atomic(folder / MARKDOWN, page)
    _write_results(folder / RESULTS_FILE, outcomes)
    _log(run, tables)
    return folder / MARKDOWN


def _results_of(factor: Factor, outcomes: Mapping[str, Outcome]) -> FactorResults:
    return FactorResults(
        name=factor.config.name,
        note=factor.config.note,
        reference=outcomes[factor.reference.key].of(factor.reference),
        variants=[outcomes[variant.key].of(variant) for variant in factor.variants],
    )


def _setting(run: Run) -> str:
    config = run.config
    (shots,) = config.integrate.shots
    draws, samples = config.integrate.draws, config.evaluate.test_samples
    return (
        f"All variants share the embeddings and, where their settings allow, the pre-trained projector. Unless a table "
        f"says otherwise: {config.meta.optim.steps:,} meta-training steps of {config.meta.episodes_per_step} episodes, "
        f"{shots} pairs, {draws} support draws, up to {samples} test samples a modality; held-out modalities: "
        f"{', '.join(dataset.name for dataset in config.datasets_of(config.evaluate.on))}. Means over modalities with "
        f"{config.evaluate.confidence:.0%} bootstrap intervals over support draws and test samples; differences are "
        f"paired by both. One training seed: what another seed would change is in no interval."
    )


def _write_results(path: Path, outcomes: Mapping[str, Outcome]) -> None:
    """One row a variant, modality, encoder, method and draw; a factor's reference is `base` of that factor."""
    parts = []
    for outcome in outcomes.values():
        if outcome.error is None:
            variant = outcome.job.variant
            rows = pq.read_table(outcome.job.scores_dir / RESULTS_FILE)
            said = {"factor": variant.factor, "variant": variant.name, "changes": json.dumps(variant.changes)}
            for name, text in reversed(said.items()):
                rows = rows.add_column(0, name, pa.array([text] * len(rows), pa.string()))
            parts.append(rows)
    pq.write_table(pa.concat_tables(parts), path)


def _log(run: Run, tables: Sequence[FactorTable]) -> None:
    folder = run.directory / FOLDER
    differences = {
        f"difference/{table.name}/{row.name}/{method}": score.difference.mean
        for table in tables
        for row in table.rows
        for method, score in row.scores.items()
        if score.difference is not None
    }
    run.tracker.log_metrics(differences)
    for name in (MARKDOWN, RESULTS_FILE, PLOTS):
        run.tracker.log_artifact(folder / name)
    run.tracker.describe((folder / MARKDOWN).read_text(encoding="utf-8"))

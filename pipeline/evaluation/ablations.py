"""Variants beside their references: scores with intervals, paired differences, and the page that shows them.

In: results of the variants of each factor.  Out: a `FactorTable` each, GitHub Markdown.

A variant has the reference's support draws and test samples, so both are paired in a difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.markdown import interval, label, signed, table
from pipeline.evaluation.protocol import Estimate, Scores
from pipeline.evaluation.results import Result
from pipeline.evaluation.summary import IntervalSettings, Metric, score_matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class VariantResults:
    """What became of a variant."""

    name: str
    """Name within the factor."""
    changes: Mapping[str, Any]
    """What it has otherwise than its reference."""
    results: Sequence[Result] = ()
    """Its scores; none where it failed."""
    error: str | None = None
    """Why it failed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FactorResults:
    """A reference and what is compared with it."""

    name: str
    """Name of the factor."""
    note: str
    """What a reader should know."""
    reference: VariantResults
    """What variants are compared with."""
    variants: Sequence[VariantResults]
    """In order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One method of one variant, the mean over modalities."""

    mean: Estimate
    """Attribute accuracy, or CIDEr-D where a modality has no attributes."""
    difference: Estimate | None
    """Minus the reference's; None: it is the reference, or that failed."""
    cider_d: Estimate
    """x100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant."""

    name: str
    changes: Mapping[str, Any]
    scores: Mapping[str, Score]
    """By method; empty where the variant failed."""
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorTable:
    """One factor: its reference, then its variants."""

    name: str
    note: str
    rows: tuple[Row, ...]
    methods: tuple[str, ...]
    exact: bool
    """Whether scores are attribute accuracies."""

    @property
    def unit(self) -> str:
        """What the scores are called."""
        return "attribute accuracy" if self.exact else "CIDEr-D"

    @property
    def digits(self) -> int:
        """Decimals that are shown."""
        return 3 if self.exact else 1


def compare(factor: FactorResults, settings: IntervalSettings) -> FactorTable:
    """Score every variant of a factor, and its difference to the reference."""
    every = [factor.reference, *factor.variants]
    results = [result for variant in every for result in variant.results]
    exact = all(result.attribute_accuracy is not None for result in results)
    methods = tuple(dict.fromkeys(result.method for result in results))
    return FactorTable(
        name=factor.name,
        note=factor.note,
        rows=tuple(_row(variant, factor.reference, methods, exact, settings) for variant in every),
        methods=methods,
        exact=exact,
    )


def _row(
    variant: VariantResults,
    reference: VariantResults,
    methods: Sequence[str],
    exact: bool,
    settings: IntervalSettings,
) -> Row:
    metric: Metric = "attribute_accuracy" if exact else "cider_d"
    scores = {}
    for method in methods if variant.results else ():
        ours, theirs = _matrices(variant.results, method, metric), _matrices(reference.results, method, metric)
        compared = variant is not reference and theirs
        scores[method] = Score(
            mean=settings.interval(ours),
            difference=settings.difference(ours, theirs) if compared else None,
            cider_d=settings.interval(_matrices(variant.results, method, "cider_d")),
        )
    return Row(name=variant.name, changes=variant.changes, scores=scores, error=variant.error)


def _matrices(results: Sequence[Result], method: str, metric: Metric) -> list[Scores]:
    by_dataset: dict[str, list[Result]] = {}
    for result in results:
        if result.method == method:
            by_dataset.setdefault(result.dataset, []).append(result)
    matrices = (score_matrix(group, metric) for group in by_dataset.values())
    return [matrix for matrix in matrices if matrix is not None]


def render_ablations(
    tables: Sequence[FactorTable], images: Mapping[str, str], *, title: str, setting: str, origin: str
) -> str:
    """The page; `images` maps a factor's name to a path relative to it, `setting` says what all variants share."""
    warning = (
        "One respect is changed at a time, and each variant is meta-trained anew. Scored are held-out modalities, so "
        "**nothing may be selected by these tables**: settings are chosen on validation modalities (`jobs.tune`, "
        "`jobs.tune_methods`)."
    )
    parts = [f"# {title}", warning, setting]
    for factor in tables:
        parts += [f"## {factor.name}", *([factor.note] if factor.note else []), factor_table(factor)]
        if factor.name in images:
            parts.append(f"![{factor.name}]({images[factor.name]})")
    return "\n\n".join([*parts, f"Written from {origin}."]) + "\n"


def factor_table(factor: FactorTable) -> str:
    """One Markdown table: the reference, then the variants."""
    header = ["variant", "otherwise than base"]
    for method in factor.methods:
        header += [f"{label(method)}: {factor.unit}", "minus base"]
    header += [f"{label(method)}: CIDEr-D" for method in factor.methods if factor.exact]
    rows = []
    for row in factor.rows:
        cells = [row.name, ", ".join(f"`{path}={_value(value)}`" for path, value in row.changes.items())]
        if row.error is not None:
            rows.append([*cells, f"failed: {row.error}", *[""] * (len(header) - 3)])
            continue
        for method in factor.methods:
            score = row.scores[method]
            cells += [interval(score.mean, factor.digits), signed(score.difference, factor.digits)]
        cells += [f"{row.scores[method].cider_d.mean:.0f}" for method in factor.methods if factor.exact]
        rows.append(cells)
    return table(header, rows)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

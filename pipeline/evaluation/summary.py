"""Results over draws, encoders and modalities, made into means with intervals and paired comparisons.

In: `Result` rows.  Out: a `Summary`, which the report, the plots and the terminal table show.

Encoders of one dataset share test rows and support draws, and seeds of one draw its support, so both are averaged
sample by sample before the bootstrap: more of them make a modality's figure broader, not surer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.evaluation.families import LABELS as LABELS
from pipeline.evaluation.protocol import Estimate, Scores, bootstrap_interval, paired_difference
from pipeline.evaluation.results import RETRIEVAL_METRICS, TEXT_METRICS, Result, shots_label, shots_order

Metric = Literal["attribute_accuracy", "cider_d"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One method at one support size: on one dataset, or on the mean of several."""

    datasets: tuple[str, ...]
    """One dataset, or those that the mean is over."""
    attribute_accuracy: Estimate | None
    """0..1; None where no dataset has attributes."""
    cider_d: Estimate
    """x100, as the metrics below."""
    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    meteor_exact_stem: float
    recall_at_1: float | None
    """None where some result has none, as the one below."""
    recall_at_5: float | None
    pairs: float
    """Pairs that were read, the mean over datasets."""
    draws: int
    """Support draws (the fewest, in a mean)."""
    test_samples: int
    """Test rows, summed over datasets."""
    trained_parameters: int
    """Mean over fits, as deployed_parameters and seconds."""
    deployed_parameters: int
    seconds: float
    peak_bytes: int
    """The most of any fit."""
    encoders: dict[str, dict[str, float]]
    """Mean scores by encoder, each over its draws."""
    per_attribute: dict[str, float]
    """Accuracy by attribute; empty in a mean."""

    def score(self, exact: bool) -> Estimate:
        """Attribute accuracy where `exact` and there is one, else CIDEr-D."""
        return self.attribute_accuracy if exact and self.attribute_accuracy else self.cider_d


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`method - baseline` at one support size, paired by draw and sample, over the datasets that have both."""

    method: str
    baseline: str
    shots: int | None
    datasets: tuple[str, ...]
    attribute_accuracy: Estimate | None
    cider_d: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Everything that is reported of a set of results; dictionaries keep the results' order."""

    cells: dict[tuple[str, str, int | None], Cell]
    """By (dataset, method, shots)."""
    means: dict[tuple[str, int | None], Cell]
    """By (method, shots): the mean over datasets."""
    comparisons: list[Comparison]
    focus: str
    """The method that is compared with all others."""
    confidence: float
    resamples: int

    @property
    def exact(self) -> bool:
        """Whether every method has an attribute accuracy, on all datasets of the summary that it was scored on."""
        return all(cell.attribute_accuracy is not None for cell in self.cells.values())

    @property
    def datasets(self) -> list[str]:
        """Datasets in order."""
        return list(dict.fromkeys(dataset for dataset, _, _ in self.cells))

    @property
    def methods(self) -> list[str]:
        """Methods in order."""
        return list(dict.fromkeys(method for method, _ in self.means))

    @property
    def shots(self) -> list[int | None]:
        """Support sizes, smallest first; None, all pairs, last."""
        return sorted({shots for _, shots in self.means}, key=shots_order)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalSettings:
    """How intervals are made."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def interval(self, scores: Sequence[Scores]) -> Estimate:
        """Mean over matrices with its interval."""
        return bootstrap_interval(scores, resamples=self.resamples, confidence=self.confidence, seed=self.seed)

    def difference(self, method: Sequence[Scores], baseline: Sequence[Scores]) -> Estimate:
        """Paired difference with its interval."""
        return paired_difference(method, baseline, resamples=self.resamples, confidence=self.confidence, seed=self.seed)


DEFAULT_INTERVALS = IntervalSettings()


def summarise(
    results: Sequence[Result], *, focus: str = "semi", settings: IntervalSettings = DEFAULT_INTERVALS
) -> Summary:
    """Group `results` by dataset, method and support size; `focus` is compared with every other method."""
    if not results:
        raise ValueError("there are no results to summarise")
    groups: dict[tuple[str, str, int | None], list[Result]] = {}
    for result in results:
        groups.setdefault((result.dataset, result.method, result.shots), []).append(result)
    sizes: dict[tuple[str, int | None], list[list[Result]]] = {}
    for (_, method, shots), group in groups.items():
        sizes.setdefault((method, shots), []).append(group)
    return Summary(
        cells={key: _cell([group], settings) for key, group in groups.items()},
        means={key: _cell(by_dataset, settings) for key, by_dataset in sizes.items()},
        comparisons=[
            _comparison(sizes[focus, shots], by_dataset, settings)
            for (method, shots), by_dataset in sizes.items()
            if method != focus and (focus, shots) in sizes
        ],
        focus=focus,
        confidence=settings.confidence,
        resamples=settings.resamples,
    )


def at_every_size(results: Sequence[Result]) -> list[Result]:
    """Results of the encoders that were scored at all support sizes of their dataset.

    A protocol may score further encoders at some sizes only.  Means of one size are then over more encoders than those
    of another, and a curve over sizes would show the difference between encoders as one between sizes.
    """
    sizes: dict[str, dict[str, set[int | None]]] = {}
    for result in results:
        sizes.setdefault(result.dataset, {}).setdefault(result.encoder, set()).add(result.shots)
    complete = {
        (dataset, encoder)
        for dataset, encoders in sizes.items()
        for encoder, seen in encoders.items()
        if seen == set().union(*encoders.values())
    }
    if missing := sizes.keys() - {dataset for dataset, _ in complete}:
        raise ValueError(f"{', '.join(sorted(missing))}: no encoder was scored at every support size of its dataset")
    return [result for result in results if (result.dataset, result.encoder) in complete]


def _cell(by_dataset: Sequence[Sequence[Result]], settings: IntervalSettings) -> Cell:
    results = [result for group in by_dataset for result in group]
    accuracy = _matrices(by_dataset, "attribute_accuracy")
    cider = _matrices(by_dataset, "cider_d")
    single = len(by_dataset) == 1
    return Cell(
        datasets=tuple(group[0].dataset for group in by_dataset),
        attribute_accuracy=settings.interval(accuracy) if accuracy else None,
        cider_d=settings.interval(cider),
        **{name: _mean_of_means(by_dataset, name) for name in TEXT_METRICS},
        recall_at_1=_mean_where_all_have_it(by_dataset, "recall_at_1"),
        recall_at_5=_mean_where_all_have_it(by_dataset, "recall_at_5"),
        pairs=_mean_of_means(by_dataset, "pairs"),
        draws=min(len(matrix) for matrix in cider),
        test_samples=sum(matrix.shape[1] for matrix in cider),
        trained_parameters=round(np.mean([result.trained_parameters for result in results])),
        deployed_parameters=round(np.mean([result.deployed_parameters for result in results])),
        seconds=float(np.mean([result.seconds for result in results])),
        peak_bytes=max(result.peak_bytes for result in results),
        encoders=_by_encoder(results) if single else {},
        per_attribute=_per_attribute(results) if single else {},
    )


def _comparison(
    ours: Sequence[Sequence[Result]], theirs: Sequence[Sequence[Result]], settings: IntervalSettings
) -> Comparison:
    baseline = {group[0].dataset: group for group in theirs}
    shared = [group for group in ours if group[0].dataset in baseline]
    if not shared:
        raise ValueError(f"{ours[0][0].method} and {theirs[0][0].method} share no dataset, so they cannot be compared")
    matched = [baseline[group[0].dataset] for group in shared]
    accuracy = _matrices(shared, "attribute_accuracy"), _matrices(matched, "attribute_accuracy")
    return Comparison(
        method=ours[0][0].method,
        baseline=theirs[0][0].method,
        shots=ours[0][0].shots,
        datasets=tuple(group[0].dataset for group in shared),
        attribute_accuracy=settings.difference(*accuracy) if accuracy[0] else None,
        cider_d=settings.difference(_matrices(shared, "cider_d"), _matrices(matched, "cider_d")),
    )


def _matrices(by_dataset: Iterable[Sequence[Result]], metric: Metric) -> list[Scores]:
    """A matrix `[draws, samples]` for each dataset that has the metric, averaged over its encoders."""
    matrices = (score_matrix(group, metric) for group in by_dataset)
    return [matrix for matrix in matrices if matrix is not None]


def score_matrix(group: Sequence[Result], metric: Metric) -> Scores | None:
    """`[draws, samples]` of one dataset, method and support size, averaged over encoders and seeds; None without it."""
    by_encoder: dict[str, dict[int, dict[int, Result]]] = {}
    for result in group:
        of_draw = by_encoder.setdefault(result.encoder, {}).setdefault(result.draw, {})
        if result.seed in of_draw:
            raise ValueError(
                f"{_name(result)}: two results for draw {result.draw}, seed {result.seed} of encoder {result.encoder}"
            )
        if result.samples.ids != group[0].samples.ids:
            raise ValueError(f"{_name(result)}: draws and encoders must be scored on the same test samples")
        of_draw[result.seed] = result
    draws = sorted(by_encoder[group[0].encoder])
    if any(sorted(results) != draws for results in by_encoder.values()):
        raise ValueError(f"{_name(group[0])}: every encoder needs the same draws {draws}")
    if getattr(group[0].samples, metric) is None:
        return None
    rows = [[_mean_of_seeds(of_encoder[draw], metric) for draw in draws] for of_encoder in by_encoder.values()]
    matrix: Scores = np.mean(np.asarray(rows, dtype=np.float64), axis=0)
    return matrix


def _mean_of_seeds(by_seed: Mapping[int, Result], metric: Metric) -> Scores:
    mean: Scores = np.mean([getattr(result.samples, metric) for result in by_seed.values()], axis=0)
    return mean


def _name(result: Result) -> str:
    return f"{result.dataset}, {result.method}, {shots_label(result.shots)} shots"


def _mean_of_means(by_dataset: Sequence[Sequence[Result]], metric: str) -> float:
    # fsum: the same to the last bit whatever the order of the results.
    means = [math.fsum(getattr(result, metric) for result in group) / len(group) for group in by_dataset]
    return math.fsum(means) / len(means)


def _mean_where_all_have_it(by_dataset: Sequence[Sequence[Result]], metric: str) -> float | None:
    every = all(getattr(result, metric) is not None for group in by_dataset for result in group)
    return _mean_of_means(by_dataset, metric) if every else None


def _by_encoder(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    encoders: dict[str, dict[str, float]] = {}
    for encoder in dict.fromkeys(result.encoder for result in results):
        of_encoder = [result for result in results if result.encoder == encoder]
        encoders[encoder] = {
            metric: float(np.mean([getattr(result, metric) for result in of_encoder]))
            for metric in ("attribute_accuracy", "cider_d", *TEXT_METRICS, *RETRIEVAL_METRICS)
            if getattr(of_encoder[0], metric) is not None
        }
    return encoders


def _per_attribute(results: Sequence[Result]) -> dict[str, float]:
    return {
        attribute: float(np.mean([result.per_attribute[attribute] for result in results]))
        for attribute in results[0].per_attribute
    }

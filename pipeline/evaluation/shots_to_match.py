"""Shots-to-match: how many pairs a baseline needs to score what a method scores with a few.

In: `Result` rows at several support sizes.  Out: a `Match` for each pair of a method and a baseline.

The baseline's curve is its mean over modalities at each support size, as measured, not smoothed and not made monotone;
between two sizes it is a straight line in log2(pairs).  The answer is where the curve first reaches the method's mean.
`full` lies at the mean number of pairs of the modalities.  Where the curve starts above the method's mean, the answer
is below the smallest size (-inf); where it never reaches it, above the largest (+inf).  Both are kept as such by the
bootstrap, whose quantiles are values of the extended line: an end of an interval can be censored too.

Intervals resample support draws and test samples as all others do (`pipeline.evaluation.protocol`), with the same
resample for all methods and sizes.  Curves are over the encoders that were scored at every size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.protocol import Scores, resampled_means
from pipeline.evaluation.results import Result, shots_order
from pipeline.evaluation.summary import DEFAULT_INTERVALS, IntervalSettings, Metric, at_every_size, score_matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Pairs that `baseline` needs to equal `method` at `shots`, on the mean over the datasets that both have."""

    method: str
    baseline: str
    shots: int
    metric: Metric
    datasets: tuple[str, ...]
    target: float
    """The method's mean, 0..1 or x100 as the metric is."""
    pairs: float
    """Pairs the baseline needs; -inf below `fewest`, inf above `most`."""
    low: float
    """Ends of the bootstrap interval of `pairs`, censored alike."""
    high: float
    fewest: float
    """Where the baseline's curve begins, in pairs."""
    most: float
    """Where it ends."""

    def text(self, pairs: float) -> str:
        """How a number of pairs of this match is written: `> most`, `< fewest`, or rounded."""
        if math.isinf(pairs):
            return f"> {self.most:,.0f}" if pairs > 0 else f"< {self.fewest:,.0f}"
        return f"{pairs:,.1f}" if pairs < 10 else f"{pairs:,.0f}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Point:
    """One method at one support size on one dataset."""

    pairs: float
    mean: float
    resampled_R: Scores


_Curve = dict[int | None, dict[str, _Point]]  # by support size, then dataset


def shots_to_match(
    results: Sequence[Result], *, shots: int = 32, settings: IntervalSettings = DEFAULT_INTERVALS
) -> list[Match]:
    """Every method at `shots` against every baseline that was scored at two sizes or more.

    Attribute accuracy where every result has it, else CIDEr-D.
    """
    kept = at_every_size(results)
    metric: Metric = (
        "attribute_accuracy" if all(result.attribute_accuracy is not None for result in kept) else "cider_d"
    )
    curves = _curves(kept, metric, settings)
    if not any(shots in curve for curve in curves.values()):
        raise ValueError(f"no method was scored at {shots} shots, so there is nothing to match")
    matches = [
        _match(method, baseline, curves[method], curves[baseline], shots, metric, settings.confidence)
        for method in curves
        if shots in curves[method]
        for baseline in curves
        if baseline != method
    ]
    return [match for match in matches if match is not None]


def first_crossing(log_pairs_S: Scores, scores_SN: Scores, targets_N: Scores) -> Scores:
    """Log2(pairs) at which each column of `scores_SN` first reaches its target; inf where never.

    -inf where the first score lies above the target already.
    """
    reached_SN = scores_SN >= targets_N
    first_N = reached_SN.argmax(axis=0)
    columns_N, before_N = np.arange(scores_SN.shape[1]), np.maximum(first_N - 1, 0)
    low_N, high_N = scores_SN[before_N, columns_N], scores_SN[first_N, columns_N]
    rise_N = np.where(high_N > low_N, high_N - low_N, 1.0)
    share_N = np.clip((targets_N - low_N) / rise_N, 0.0, 1.0)
    crossing_N: Scores = log_pairs_S[before_N] + share_N * (log_pairs_S[first_N] - log_pairs_S[before_N])
    crossing_N[scores_SN[0] > targets_N] = -np.inf
    crossing_N[~reached_SN.any(axis=0)] = np.inf
    return crossing_N


def _match(
    method: str, baseline: str, ours: _Curve, theirs: _Curve, shots: int, metric: Metric, confidence: float
) -> Match | None:
    """None where the baseline has no curve: fewer than two sizes with every dataset that both have."""
    known = {dataset for points in theirs.values() for dataset in points}
    datasets = tuple(dataset for dataset in ours[shots] if dataset in known)
    by_pairs: dict[float, tuple[float, Scores]] = {}
    for size in sorted(theirs, key=shots_order):
        if datasets and all(dataset in theirs[size] for dataset in datasets):
            pairs, mean, resampled_R = _mean_point([theirs[size][dataset] for dataset in datasets])
            by_pairs.setdefault(pairs, (mean, resampled_R))  # `full` of just as many pairs as a size is that size
    if len(by_pairs) < 2:
        return None
    sizes_S = np.array(sorted(by_pairs))
    scores_SN = np.stack([np.append(mean, resampled_R) for _, (mean, resampled_R) in sorted(by_pairs.items())])
    _, target, resampled_R = _mean_point([ours[shots][dataset] for dataset in datasets])
    pairs_N = 2.0 ** first_crossing(np.log2(sizes_S), scores_SN, np.append(target, resampled_R))
    # 2 ** -inf is 0: no number of pairs, but "fewer than were tried".
    pairs_N[pairs_N == 0.0] = -np.inf
    ordered_R, tail = np.sort(pairs_N[1:]), (1.0 - confidence) / 2.0
    last = len(ordered_R) - 1
    return Match(
        method=method,
        baseline=baseline,
        shots=shots,
        metric=metric,
        datasets=datasets,
        target=float(target),
        pairs=float(pairs_N[0]),
        # Outward to the next value: between a number and infinity there is nothing to interpolate.
        low=float(ordered_R[math.floor(tail * last)]),
        high=float(ordered_R[math.ceil((1.0 - tail) * last)]),
        fewest=float(sizes_S[0]),
        most=float(sizes_S[-1]),
    )


def _mean_point(points: Sequence[_Point]) -> tuple[float, float, Scores]:
    """Pairs, mean and resampled means over datasets."""
    resampled_R: Scores = np.mean([point.resampled_R for point in points], axis=0)
    return (
        float(np.mean([point.pairs for point in points])),
        float(np.mean([point.mean for point in points])),
        resampled_R,
    )


def _curves(results: Sequence[Result], metric: Metric, settings: IntervalSettings) -> dict[str, _Curve]:
    groups: dict[tuple[str, int | None, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.method, result.shots, result.dataset), []).append(result)
    matrices = {key: score_matrix(group, metric) for key, group in groups.items()}
    strata = list(dict.fromkeys(result.dataset for result in results))
    most_draws = max(len(matrix) for matrix in matrices.values() if matrix is not None)
    curves: dict[str, _Curve] = {}
    for (method, shots, dataset), matrix in matrices.items():
        if matrix is None:
            raise ValueError(f"{dataset}, {method}: some results have no {metric}, so they have no curve")
        resampled_R = resampled_means(
            matrix,
            strata.index(dataset),
            resamples=settings.resamples,
            seed=settings.seed,
            samples_of_draws=most_draws,
        )
        pairs = float(np.mean([result.pairs for result in groups[method, shots, dataset]]))
        point = _Point(pairs=pairs, mean=float(matrix.mean()), resampled_R=resampled_R)
        curves.setdefault(method, {}).setdefault(shots, {})[dataset] = point
    return curves

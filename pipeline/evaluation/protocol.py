"""Who is drawn, and how sure a mean is.

In: row numbers, seeds, and score matrices `[draws, samples]`.
Out: support draws and test rows (pure functions of their arguments), and bootstrap intervals.

An interval resamples the support draws and the test samples, independently of each other: every draw is scored on
the same test samples, so a sample that is hard is hard in all draws (Owen 2007, "The pigeonhole bootstrap").
Modalities are not resampled: a mean over them is a statement about those modalities, as trained with one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

# Keep the streams apart: the same seed must not tie the test rows or the resamples to a support draw.
_SUPPORT_STREAM, _TEST_STREAM, _BOOTSTRAP_STREAM = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


def draw_support(rows: Rows, shots: int, seed: int, draw: int, *, dataset: str = "dataset") -> Rows:
    """`shots` distinct rows out of `rows`, the same for every method and encoder, whatever the order of `rows`.

    Draws are nested: the first k rows of a larger support are the support of k shots.
    """
    if not 1 <= shots <= len(rows):
        raise ValueError(
            f"{dataset}: {shots} shots asked for, but its train split has {len(rows)} rows; "
            f"lower integrate.shots to at most {len(rows)}, or provide more pairs"
        )
    return _shuffled(rows, (seed, draw, _SUPPORT_STREAM))[:shots]


def test_rows(rows: Rows, samples: int, seed: int, *, dataset: str = "dataset") -> Rows:
    """The first `samples` of a seeded shuffle of the test split; all of them where there are fewer."""
    if len(rows) == 0:
        raise ValueError(f"{dataset}: the test split has no rows; mark some with split `test`")
    return _shuffled(rows, (seed, _TEST_STREAM))[:samples]


test_rows.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it where a test imports it


def bootstrap_interval(
    scores: Scores | Sequence[Scores], *, resamples: int, confidence: float, seed: int = 0
) -> Estimate:
    """Mean and interval of one score matrix `[draws, samples]`, or of the mean of several matrices' means.

    Several matrices (one a modality) are resampled independently.  From n units n - 1 are drawn, which makes the
    variance of a resampled mean that of the mean itself also at 3 draws, where the usual n would shrink it by a third.
    One draw alone tells nothing about draws: the interval then covers the test samples only.
    """
    strata = [scores] if isinstance(scores, np.ndarray) else list(scores)
    if not strata or any(matrix.ndim != 2 or matrix.size == 0 for matrix in strata):
        raise ValueError(f"scores must be [draws, samples], none empty, got {[matrix.shape for matrix in strata]}")
    if not all(np.isfinite(matrix).all() for matrix in strata):
        raise ValueError("scores must be finite")
    means = np.zeros(resamples)
    for stratum, matrix in enumerate(strata):
        means += resampled_means(matrix, stratum, resamples=resamples, seed=seed) / len(strata)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Estimate(float(np.mean([matrix.mean() for matrix in strata])), float(low), float(high))


def resampled_means(
    matrix: Scores, stratum: int, *, resamples: int, seed: int = 0, samples_of_draws: int | None = None
) -> Scores:
    """Means `[resamples]` of a score matrix `[draws, samples]`.

    Matrices of one stratum and shape share their resamples.  `samples_of_draws` takes the test samples that matrices of
    so many draws get, where some support sizes of a curve have fewer draws than others.
    """
    draws, samples = matrix.shape
    by_draw, by_sample = _weights(draws, samples, stratum, resamples, seed)
    if samples_of_draws is not None and samples_of_draws != draws:
        _, by_sample = _weights(samples_of_draws, samples, stratum, resamples, seed)
    means: Scores = np.einsum("dr,dr->r", by_draw, matrix @ by_sample)
    return means


def paired_difference(
    method: Sequence[Scores], baseline: Sequence[Scores], *, resamples: int, confidence: float, seed: int = 0
) -> Estimate:
    """Mean and interval of `method - baseline`, paired by draw and test sample, one matrix a modality."""
    shapes = [matrix.shape for matrix in method], [matrix.shape for matrix in baseline]
    if shapes[0] != shapes[1]:
        raise ValueError(f"a paired difference needs equal shapes, got {shapes[0]} and {shapes[1]}")
    differences = [ours - theirs for ours, theirs in zip(method, baseline, strict=True)]
    return bootstrap_interval(differences, resamples=resamples, confidence=confidence, seed=seed)


def _shuffled(rows: Rows, entropy: Sequence[int]) -> Rows:
    ordered: Rows = np.unique(np.asarray(rows, dtype=np.int64))
    if len(ordered) != len(rows):
        raise ValueError(f"rows must be distinct, got {len(rows)} with {len(rows) - len(ordered)} repeated")
    return np.random.default_rng(entropy).permutation(ordered)


@lru_cache(maxsize=16)
def _weights(draws: int, samples: int, stratum: int, resamples: int, seed: int) -> tuple[Scores, Scores]:
    """Weights `[draws, resamples]` and `[samples, resamples]`; cached, so that all methods share their resamples."""
    rng = np.random.default_rng([seed, _BOOTSTRAP_STREAM, stratum, draws, samples])

    def resample(units: int) -> Scores:
        drawn = max(units - 1, 1)
        weights = rng.multinomial(drawn, np.full(units, 1.0 / units), size=resamples).T / drawn
        weights.setflags(write=False)
        return weights

    return resample(draws), resample(samples)

"""CIDEr-D against references that are prepared once.

In: tokens.  Out: a score a sample, 1 for 1 (callers print x100; COCO's extra factor 10 is in it).

`pycocoevalcap`'s scorer, which the tests compare with, weighs all references anew for every set of captions: half of
the time that scoring took.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ORDERS = 4
_SIGMA = 6.0
_COCO_FACTOR = 10.0

_Ngram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Vector:
    """Tf-idf weights of one text by n-gram, their norm for each order, and the length."""

    weights: dict[_Ngram, float]
    norms: tuple[float, ...]
    length: int
    """In bigrams, as the original counts it."""


class CiderReferences:
    """Document frequencies and tf-idf vectors of the references of a test set."""

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """Tokens of each reference of each sample; a sample's references are one document of the idf."""
        counts = [[_ngrams(tokens) for tokens in texts] for texts in references]
        documents = Counter(ngram for texts in counts for ngram in set().union(*texts))
        self._most = math.log(len(references))
        self._idf = {ngram: self._most - math.log(number) for ngram, number in documents.items()}
        self._vectors = [[self._vector(ngrams) for ngrams in texts] for texts in counts]

    def score(self, candidates: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
        """`[n]`: the mean over a sample's references of the mean over 1- to 4-grams."""
        scores = []
        for tokens, references in zip(candidates, self._vectors, strict=True):
            ours = self._vector(_ngrams(tokens))
            similarity = sum(_similarity(ours, theirs) for theirs in references)
            scores.append(_COCO_FACTOR * similarity / len(references))
        return np.asarray(scores, dtype=np.float64)

    def _vector(self, ngrams: Counter[_Ngram]) -> _Vector:
        # An n-gram that no reference holds weighs as much as one that a single sample's hold.
        weights = {ngram: count * self._idf.get(ngram, self._most) for ngram, count in ngrams.items()}
        squares = [0.0] * _ORDERS
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight * weight
        return _Vector(
            weights, tuple(map(math.sqrt, squares)), sum(count for ngram, count in ngrams.items() if len(ngram) == 2)
        )


def _ngrams(tokens: Sequence[str]) -> Counter[_Ngram]:
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, _ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    )


def _similarity(ours: _Vector, theirs: _Vector) -> float:
    """Mean over orders of the cosine with clipped counts, times the penalty of another length."""
    products = [0.0] * _ORDERS
    for ngram, weight in ours.weights.items():
        other = theirs.weights.get(ngram)
        if other is not None:
            products[len(ngram) - 1] += min(weight, other) * other
    norms = (mine * other for mine, other in zip(ours.norms, theirs.norms, strict=True))
    cosines = sum(product / norm for product, norm in zip(products, norms, strict=True) if norm)
    return cosines / _ORDERS * math.exp(-((ours.length - theirs.length) ** 2) / (2 * _SIGMA**2))

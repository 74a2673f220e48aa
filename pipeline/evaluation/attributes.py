"""Exact attribute accuracy: does a caption name the true value of each attribute, and no other value of it?

In: captions, the true value of every attribute of each sample, and each attribute's possible values.
Out: accuracy overall, for each attribute, and for each sample (for bootstrap intervals).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttributeScores:
    """Fractions in 0..1."""

    mean: float
    """Mean of `per_sample`."""
    per_attribute: dict[str, float]
    """Over the samples that have the attribute; an attribute that no sample has is left out."""
    per_sample: npt.NDArray[np.float64]
    """`[n]`: the share of a sample's own attributes that its caption gets right."""


def vocabulary_of(truths: Sequence[Mapping[str, str]]) -> dict[str, frozenset[str]]:
    """Every value seen of every attribute; take it over a whole dataset, not over a test set alone."""
    values: dict[str, set[str]] = {}
    for truth in truths:
        for attribute, value in truth.items():
            values.setdefault(attribute, set()).add(value)
    return {attribute: frozenset(found) for attribute, found in values.items()}


def attribute_accuracy(
    captions: Sequence[str], truths: Sequence[Mapping[str, str]], vocabulary: Mapping[str, AbstractSet[str]]
) -> AttributeScores:
    """Score `captions[i]` against `truths[i]`.

    A value is found where its words stand in the caption at word boundaries, whatever the case and the white space.
    A value that lies within a longer found value of the same attribute does not count ("blue" within "dark blue").
    An attribute is right where exactly its true value is found, any number of times.
    A sample is scored on the attributes it has.
    """
    if not captions or len(captions) != len(truths):
        raise ValueError(f"need as many truths as captions and at least one, got {len(captions)}, {len(truths)}")
    finders = {attribute: _Finder(attribute, values) for attribute, values in vocabulary.items()}
    right = np.full((len(captions), len(finders)), np.nan)
    columns = {attribute: column for column, attribute in enumerate(finders)}
    for row, (caption, truth) in enumerate(zip(captions, truths, strict=True)):
        if not truth:
            raise ValueError(f"truths[{row}] is empty; every scored sample needs at least one attribute")
        text = _normal(caption)
        for attribute, value in truth.items():
            if attribute not in finders:
                raise ValueError(f"truths[{row}] has attribute {attribute!r}; the vocabulary has {sorted(finders)}")
            right[row, columns[attribute]] = finders[attribute].names_only(text, value)
    known = ~np.isnan(right)
    hits = np.where(known, right, 0.0)
    per_sample = hits.sum(axis=1) / known.sum(axis=1)
    return AttributeScores(
        mean=float(per_sample.mean()),
        per_attribute={
            attribute: float(hits[:, column].sum() / known[:, column].sum())
            for attribute, column in columns.items()
            if known[:, column].any()
        },
        per_sample=per_sample,
    )


class _Finder:
    """Finds the values of one attribute in normalised captions."""

    def __init__(self, attribute: str, values: AbstractSet[str]) -> None:
        self._attribute = attribute
        self._values = {_normal(value) for value in values}
        if not self._values or "" in self._values:
            raise ValueError(f"vocabulary[{attribute!r}] is {sorted(values)}; it needs values, none of them blank")
        longest_first = sorted(self._values, key=lambda value: (-len(value), value))
        alternatives = "|".join(map(re.escape, longest_first))
        # A look-ahead consumes nothing, so that overlapping values are all seen, the longest one at each start.
        self._pattern = re.compile(rf"(?<!\w)(?=({alternatives})(?!\w))")

    def names_only(self, text: str, value: str) -> bool:
        """Whether `value` is found in `text` and no other value is."""
        wanted = _normal(value)
        if wanted not in self._values:
            raise ValueError(
                f"{value!r} is not a value of attribute {self._attribute!r}; it has {sorted(self._values)}"
            )
        found: set[str] = set()
        end = -1
        for match in self._pattern.finditer(text):
            if match.end(1) > end:  # else it lies within the one found before
                end = match.end(1)
                found.add(match[1])
        return found == {wanted}


def _normal(text: str) -> str:
    return " ".join(text.lower().split())

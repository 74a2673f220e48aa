"""What the embedding holds: a linear probe of each attribute (METHOD section 5), an upper bound and no rival.

In: a support set with attributes.  Out: "captions" that list the predicted value of each attribute.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pipeline.adaptation.captioner import Captioner
from pipeline.adaptation.support import SupportSet

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse penalties tried by cross-validation inside the support, in scikit-learn's units."""
_FOLDS = 5

Rows = npt.NDArray[np.float64]
Labels = npt.NDArray[np.str_]


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbeMethod:
    """Logistic regression of each attribute on the standardised embeddings, its penalty chosen inside the support."""

    stochastic: ClassVar[bool] = False

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """One classifier for each attribute that any pair has; the seed is not used."""
        names = sorted({name for values in support.attributes for name in values})
        if not names:
            raise ValueError(
                f"linear_probe predicts attributes, and the pairs of {support.modality!r} have none: remove "
                "linear_probe from evaluate.methods, or name the source's attribute_fields and extract again"
            )
        rows = support.embeddings_KE.double().cpu().numpy()
        scaler = StandardScaler().fit(rows)
        scaled = scaler.transform(rows)
        probes: list[Any] = []
        for name in names:
            known = np.array([name in values for values in support.attributes])
            labels = np.array([values[name] for values in support.attributes if name in values])
            probes.append(_probe(scaled[known], labels))
        size = sum(_size(probe) for probe in probes) + 2 * rows.shape[1]
        return ProbeCaptioner(scaler=scaler, probes=probes, trained_parameters=size, deployed_parameters=size)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeCaptioner:
    """Lists predicted values: exact attribute accuracy scores them, and caption metrics mean nothing."""

    scaler: Any
    """Standardises embeddings as the support's."""
    probes: Sequence[Any]
    """A classifier an attribute, or the one value that the support has of it."""
    trained_parameters: int
    """Coefficients, intercepts, means and deviations."""
    deployed_parameters: int
    """The same."""

    def caption(self, embeddings_NE: Tensor) -> list[str]:
        """The values without the attributes' names, which may be values themselves ("water")."""
        scaled = self.scaler.transform(embeddings_NE.double().cpu().numpy())
        columns = [
            [probe] * len(scaled) if isinstance(probe, str) else probe.predict(scaled).tolist() for probe in self.probes
        ]
        return [", ".join(values) for values in zip(*columns, strict=True)]


def _probe(rows: Rows, labels: Labels) -> Any:
    """The classifier with the strength that predicts left-out pairs best, the smallest of equals."""
    if len(set(labels)) == 1:
        return str(labels[0])
    right = [_right(rows, labels, strength) for strength in STRENGTHS]
    return _logistic(rows, labels, STRENGTHS[int(np.argmax(right))])


def _right(rows: Rows, labels: Labels, strength: float) -> int:
    folds = min(_FOLDS, len(rows))
    total = 0
    for fold in range(folds):
        out = np.arange(len(rows)) % folds == fold
        left_in = labels[~out]
        predicted = (
            left_in[:1] if len(set(left_in)) == 1 else _logistic(rows[~out], left_in, strength).predict(rows[out])
        )
        total += int((predicted == labels[out]).sum())
    return total


def _logistic(rows: Rows, labels: Labels, strength: float) -> Any:
    with warnings.catch_warnings():
        # At a thousand iterations the predictions have settled, whatever the gradient's norm.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=1000).fit(rows, labels)


def _size(probe: Any) -> int:
    return 0 if isinstance(probe, str) else int(probe.coef_.size + probe.intercept_.size)

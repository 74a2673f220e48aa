"""One trial of a method's tuning, scored on the validation modalities.

In: a trial and a run with trained stages.  Out: its score, kept in a file of its own, so that a rerun repeats none.
Held-out datasets are never opened: the trial's configuration evaluates on `validation`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.adaptation.tuning import Trial
from pipeline.config.artifacts import write_text_atomic
from pipeline.config.fingerprint import fingerprint
from pipeline.config.load import override
from pipeline.config.schema import ExperimentConfig
from pipeline.evaluation.results import Result
from pipeline.runtime.scoring import MethodCell, method_cells, score_anew


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """A trial and what it needs to be computed anywhere."""

    config: ExperimentConfig
    """Evaluates on validation modalities, with the shots and draws of the search."""
    root: Path
    """The project's root."""
    run_dir: Path
    """Folder of the run, shared by all nodes."""
    identity: str
    """Of the search's inputs; scores of another one are not reused."""
    trial: Trial
    """The settings."""


def run_trial(task: TrialTask, score: Callable[[MethodCell], list[Result]] = score_anew) -> float:
    """Mean attribute accuracy (CIDEr-D where a modality has no attributes) over modalities, or the kept one."""
    folder = task.run_dir / "tune_methods" / "trials" / task.trial.method
    file = folder / f"{task.trial.number}.json"
    stamp = fingerprint((task.identity, task.trial.method, dict(task.trial.overrides)))
    if file.is_file() and (kept := json.loads(file.read_text(encoding="utf-8")))["identity"] == stamp:
        return float(kept["score"])
    config = override(task.config, task.trial.overrides)
    config = replace(config, evaluate=replace(config.evaluate, on="validation", methods=(task.trial.method,)))
    results = [result for cell in method_cells(config, task.root, task.run_dir, stamp) for result in score(cell)]
    mean = _mean(results)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, json.dumps({"identity": stamp, "score": mean}))
    return mean


def _mean(results: Sequence[Result]) -> float:
    """Over modalities: of attribute accuracy, or of CIDEr-D where one of them has no attributes."""
    exact = all(result.attribute_accuracy is not None for result in results)
    by_dataset: dict[str, list[float]] = {}
    for result in results:
        value = result.attribute_accuracy if exact else result.cider_d
        by_dataset.setdefault(result.dataset, []).append(float(value or 0.0))
    return float(np.mean([np.mean(scores) for scores in by_dataset.values()]))

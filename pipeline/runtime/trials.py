"""One trial of a method's tuning, scored on the validation modalities.

In: a trial and a run with trained stages.  Out: its score, kept in a file of its own, so that a rerun repeats none.
Held-out datasets are never opened: the trial's configuration evaluates on `validation`.

A trial that fails is lost, with its reason, and the others go on. A divergence is the settings' own and is kept like a
score; any other error may be of the moment, so a rerun tries that trial again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.adaptation.finetune import DivergedError
from pipeline.adaptation.tuning import Outcome, Trial
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


def run_trial(task: TrialTask, score: Callable[[MethodCell], list[Result]] = score_anew) -> Outcome:
    """Mean attribute accuracy (CIDEr-D where a modality has no attributes) over modalities, or what was kept of it."""
    folder = task.run_dir / "tune_methods" / "trials" / task.trial.method
    file = folder / f"{task.trial.number}.json"
    stamp = fingerprint((task.identity, task.trial.method, dict(task.trial.overrides)))
    if file.is_file() and (kept := json.loads(file.read_text(encoding="utf-8")))["identity"] == stamp:
        return Outcome(score=kept["score"], error=kept.get("error"))
    config = override(task.config, task.trial.overrides)
    config = replace(config, evaluate=replace(config.evaluate, on="validation", methods=(task.trial.method,)))
    cells = method_cells(config, task.root, task.run_dir, stamp)
    try:
        outcome = Outcome(score=_mean([result for cell in cells for result in score(cell)]))
    except DivergedError as error:
        outcome = Outcome(error=str(error))
    except OSError:  # no setting's fault, such as weights that are missing or a full disk: every trial would meet it
        raise
    except Exception as error:
        logging.getLogger(__name__).info("trial failed", exc_info=True)
        return Outcome(error=f"{type(error).__name__}: {' '.join(str(error).split())}")
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, json.dumps({"identity": stamp, **asdict(outcome)}))
    return outcome


def _mean(results: Sequence[Result]) -> float:
    """Over modalities: of attribute accuracy, or of CIDEr-D where one of them has no attributes."""
    exact = all(result.attribute_accuracy is not None for result in results)
    by_dataset: dict[str, list[float]] = {}
    for result in results:
        value = result.attribute_accuracy if exact else result.cider_d
        by_dataset.setdefault(result.dataset, []).append(float(value or 0.0))
    return float(np.mean([np.mean(scores) for scores in by_dataset.values()]))

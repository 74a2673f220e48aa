"""Whether few pairs are hard and many are enough: a projector from scratch at both ends.

In: a run with extracted embeddings.  Out: attribute accuracy of a projector trained on a few pairs and on all pairs of
each held-out modality. A suite where the first is close to the second could not show data efficiency.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.adaptation.methods import TrainedProjectorMethod
from pipeline.adaptation.support import read_support
from pipeline.config.schema import ExperimentConfig, FinetuneConfig
from pipeline.evaluation.attributes import attribute_accuracy, vocabulary_of
from pipeline.evaluation.protocol import draw_support, test_rows
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.runtime.fanout import fan_out
from pipeline.training.sources import open_splits
from pipeline.training.stages import new_projector

ALL_PAIRS = FinetuneConfig(steps=2000, learning_rate=3e-3, batch_size=32)
"""Budget of the projector that is trained on all pairs: about 30 epochs of the miniature suite's modalities."""


@dataclass(frozen=True, kw_only=True)
class ScratchTask:
    """One projector from scratch."""

    config: ExperimentConfig
    """The resolved configuration."""
    root: Path
    """The project's root."""
    run_dir: Path
    """Folder with the embeddings."""
    modality: str
    """Held-out modality; its first encoder is used."""
    shots: int | None
    """Pairs; None: all."""


@dataclass(frozen=True, kw_only=True)
class ScratchSanity:
    """Attribute accuracy of a projector from scratch."""

    modality: str
    """Held-out modality."""
    few: float
    """On the configured number of shots."""
    full: float
    """On all training pairs."""

    @property
    def ratio(self) -> float:
        """How much of the second the first reaches."""
        return self.few / self.full if self.full else math.inf


def scratch_tasks(config: ExperimentConfig, root: Path, run_dir: Path) -> list[ScratchTask]:
    """Both ends for every held-out modality, in the configuration's order."""
    return [
        ScratchTask(config=config, root=root, run_dir=run_dir, modality=dataset.name, shots=shots)
        for dataset in config.datasets
        if dataset.role == "held_out"
        for shots in (None, _first_size(config))
    ]


def _first_size(config: ExperimentConfig) -> int:
    return next(shots for shots in config.integrate.shots if shots != "full")


def scratch_sanity(
    tasks: Sequence[ScratchTask], *, on_done: Callable[[ScratchTask, float], None], verbose: bool
) -> list[ScratchSanity]:
    """Train all projectors; `on_done` hears of each as it ends."""
    scores: dict[tuple[str, int | None], float] = {}

    def done(task: ScratchTask, score: float) -> None:
        scores[task.modality, task.shots] = score
        on_done(task, score)

    runtime, root = tasks[0].config.runtime, tasks[0].root
    fan_out(scratch_accuracy, tasks, runtime=runtime, root=root, on_done=done, verbose=verbose)
    return [
        ScratchSanity(modality=task.modality, few=scores[task.modality, task.shots], full=scores[task.modality, None])
        for task in tasks
        if task.shots is not None
    ]


def scratch_accuracy(task: ScratchTask) -> float:
    """Train one projector and score it on the test rows."""
    config = replace(task.config, datasets=tuple(item for item in task.config.datasets if item.name == task.modality))
    llm = FrozenLLM(config.llm, task.root)
    train, test = open_splits(config, task.root, task.run_dir, role="held_out", splits=("train", "test"))[:2]
    positions = np.arange(len(train), dtype=np.int64)
    if task.shots is not None:
        positions = draw_support(positions, task.shots, config.seed, 0, dataset=task.modality)
    method = TrainedProjectorMethod(
        projector=new_projector(config, llm),
        from_scratch=True,
        llm=llm,
        finetuning=ALL_PAIRS if task.shots is None else config.evaluate.scratch,
    )
    captioner = method.fit(read_support(train, positions), config.seed)
    every = np.arange(len(test), dtype=np.int64)
    wanted = test_rows(every, config.evaluate.test_samples, config.seed, dataset=task.modality)
    captions = captioner.caption(test.embeddings(wanted))
    return attribute_accuracy(captions, test.attributes(wanted), vocabulary_of(test.attributes(every))).mean

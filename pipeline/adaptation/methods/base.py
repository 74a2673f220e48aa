"""What every method is, and what it may know besides the support.

In: a support set and a seed.  Out: a `Captioner`. A method sees the K pairs, the frozen models and what was trained on
high-resource modalities; never another row of the held-out modality.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pipeline.adaptation.captioner import Captioner, ProjectorCaptioner
from pipeline.adaptation.finetune import Finetuned, Start, finetune, finetune_together
from pipeline.adaptation.support import SupportSet
from pipeline.config.schema import ExperimentConfig, FinetuneConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.models.semi import Semi

TrainingSupports = Callable[[int, int], Sequence[SupportSet]]
"""`(shots, seed)` to a support of every high-resource (modality, encoder), each of at most that many pairs."""


class Method(Protocol):
    """Fits a captioner to a support set."""

    @property
    def stochastic(self) -> bool:
        """Whether the seed changes the result; where it does not, one fit a support draw is all there is."""

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """A pure function of the support and the seed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedMethod(ABC):
    """A method with gradient steps on the support: where they start, and what becomes of what they made."""

    llm: FrozenLLM
    """Frozen LLM."""
    finetuning: FinetuneConfig
    """The steps."""

    @abstractmethod
    def begin(self, support: SupportSet, seed: int) -> Start:
        """The projector before the steps, and the pairs that they are made on."""

    def end(self, made: Finetuned) -> Captioner:
        """A captioner with the projector that came of it, all of whose tuned parameters were trained."""
        trained = count_parameters(made.projector, trainable=True)
        return ProjectorCaptioner(projector=made.projector, llm=self.llm, trained_parameters=trained)

    def project(self, support: SupportSet, seed: int) -> Finetuned:
        """The trained projector, and the steps that it has had."""
        start = self.begin(support, seed)
        return finetune(start.projector, self.llm, start.support, self.finetuning, seed=start.seed)

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """A captioner with that projector."""
        return self.end(self.project(support, seed))


def fit_together(method: Method, fits: Sequence[tuple[SupportSet, int]]) -> list[Captioner]:
    """`method.fit` of each support and seed; gradient steps are made in lockstep (`finetune_together`)."""
    if not isinstance(method, TrainedMethod):
        return [method.fit(support, seed) for support, seed in fits]
    starts = [method.begin(support, seed) for support, seed in fits]
    return [method.end(made) for made in finetune_together(starts, method.llm, method.finetuning)]


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodContext:
    """What methods are built of: settings, frozen and trained models, and data of high-resource modalities."""

    config: ExperimentConfig
    """Methods and their budgets."""
    llm: FrozenLLM
    """Frozen LLM."""
    pretrained: Projector
    """After stage 1."""
    semi: Semi
    """After stage 2."""
    training_supports: TrainingSupports
    """For the controls that read other modalities' pairs; called when such a method is fitted, not before."""


def count_parameters(module: torch.nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters: all, or those that gradient steps change."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)

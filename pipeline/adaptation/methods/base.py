"""What every method is, and what it may know besides the support.

In: a support set and a seed.  Out: a `Captioner`. A method sees the K pairs, the frozen models and what was trained on
high-resource modalities; never another row of the held-out modality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from pipeline.adaptation.captioner import Captioner
from pipeline.adaptation.finetune import Finetuned
from pipeline.adaptation.support import SupportSet
from pipeline.config.schema import ExperimentConfig
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


@runtime_checkable
class ProjectorMethod(Method, Protocol):
    """A method whose captioner is one projector, which reads the encoder's embeddings and can be shipped."""

    def project(self, support: SupportSet, seed: int) -> Finetuned:
        """That projector, and the gradient steps that it has had."""


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

"""SEMI, and its controls: the same with a support that says less (METHOD section 5).

In: a support set and a seed.  Out: a captioner with the merged (and fine-tuned) projector.

A control replaces the support as a whole: the hypernetwork and the fine-tuning both read the replacement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.nn import functional

from pipeline.adaptation.captioner import Captioner, ProjectorCaptioner
from pipeline.adaptation.finetune import Finetuned, Start
from pipeline.adaptation.methods.base import TrainedMethod, TrainingSupports, count_parameters
from pipeline.adaptation.support import SupportSet
from pipeline.episodes.isometry import gaussian
from pipeline.episodes.sampler import philox
from pipeline.episodes.width import fit_width_map
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.models.semi import Semi

_RANDOM_STREAM, _OTHER_STREAM = 21, 22

Control = Callable[[SupportSet, int], SupportSet]
"""`(support, seed)` to the support that a control reads instead."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SemiMethod(TrainedMethod):
    """Generate the adapter, merge it, fine-tune the merged projector (METHOD section 2.3)."""

    semi: Semi
    """Meta-trained model."""
    chunk: int
    """Largest support read at once."""
    control: Control | None = None
    """Replaces the support; None: SEMI itself."""

    @property
    def stochastic(self) -> bool:
        """The seed orders the pairs of fine-tuning, draws width maps (where there are any) and controls."""
        draws_maps = self.semi.hypernet.common_width is not None
        return self.finetuning.steps > 0 or draws_maps or self.control is not None

    def begin(self, support: SupportSet, seed: int) -> Start:
        """The merged projector."""
        if self.control is not None:
            support = self.control(support, seed)
        device = self.llm.model.device
        merged = self.semi.integrate(support.batch(device), chunk=self.chunk, width_seed=seed)
        return Start(projector=merged, support=support, seed=seed)

    def end(self, made: Finetuned) -> Captioner:
        """A captioner with the merged (and fine-tuned) projector; no step deploys the adapter as generated."""
        trained = count_parameters(made.projector, trainable=True) if made.steps else 0
        return ProjectorCaptioner(projector=made.projector, llm=self.llm, trained_parameters=trained)


def random_embeddings(support: SupportSet, seed: int) -> SupportSet:
    """The control: unit-norm Gaussian vectors in place of the embeddings, so that only the captions are left."""
    vectors_KE = gaussian(philox(seed, _RANDOM_STREAM), *support.embeddings_KE.shape)
    return replace(support, embeddings_KE=functional.normalize(vectors_KE, dim=-1).to(support.embeddings_KE))


@dataclass(frozen=True, kw_only=True, eq=False)
class OtherSupport:
    """The control: the pairs of a high-resource modality, as many, drawn by the seed.

    An encoder of the support's width is taken where there is one; else the drawn one's embeddings are brought to it by
    an orthonormal width map fitted to them, and normalised again.
    """

    training_supports: TrainingSupports
    """Where the other modality comes from."""

    def __call__(self, support: SupportSet, seed: int) -> SupportSet:
        """Reads the modality's name, the number of pairs and the width of `support`, nothing else."""
        width = support.embeddings_KE.shape[1]
        others = [other for other in self.training_supports(support.shots, seed) if other.modality != support.modality]
        if not others:
            raise ValueError(
                f"semi_other_support needs a dataset of role 'train' besides {support.modality!r}: add one, or remove "
                "semi_other_support from evaluate.methods"
            )
        fitting = [other for other in others if other.embeddings_KE.shape[1] == width] or others
        return of_width(fitting[philox(seed, _OTHER_STREAM).integers(len(fitting))], width, seed)


def of_width(support: SupportSet, width: int, seed: int) -> SupportSet:
    """A support whose embeddings have another width: an orthonormal map of its own, then unit norm."""
    if support.embeddings_KE.shape[1] == width:
        return support
    width_map = fit_width_map(support.embeddings_KE, width, kind="orthonormal", seed=seed)
    return replace(support, embeddings_KE=functional.normalize(width_map(support.embeddings_KE), dim=-1))


@dataclass(frozen=True, kw_only=True, eq=False)
class AverageAdapterMethod:
    """The control: the mean of the adapters generated for the high-resource modalities, no pair of the new one read.

    Merging is linear in an adapter's update, so the mean of the merged projectors' weights is the projector under the
    mean update. Every training support has as many pairs as the new one and is brought to its width first.
    """

    semi: Semi
    """Meta-trained model."""
    llm: FrozenLLM
    """Frozen LLM."""
    chunk: int
    """Largest support read at once."""
    training_supports: TrainingSupports
    """Supports of the high-resource modalities."""
    stochastic: ClassVar[bool] = True

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """Reads the number of pairs and the width of `support`, nothing else."""
        width, device = support.embeddings_KE.shape[1], self.llm.model.device
        supports = [
            of_width(other, width, seed)
            for other in self.training_supports(support.shots, seed)
            if other.modality != support.modality
        ]
        if not supports:
            raise ValueError(
                f"average_adapter needs a dataset of role 'train' besides {support.modality!r}: add one, or remove "
                "average_adapter from evaluate.methods"
            )
        merged = [self.semi.integrate(one.batch(device), chunk=self.chunk, width_seed=seed) for one in supports]
        return ProjectorCaptioner(projector=_mean(merged), llm=self.llm, trained_parameters=0)


@torch.no_grad()
def _mean(projectors: list[Projector]) -> Projector:
    states = [projector.state_dict() for projector in projectors]
    mean = projectors[0].like()
    mean.load_state_dict({name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]})
    return mean.eval()

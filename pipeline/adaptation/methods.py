"""SEMI, its controls and its baselines behind one interface (METHOD section 5).

In: a support set and a seed.  Out: a `Captioner`. A method sees the K pairs, the frozen models and what was trained on
high-resource modalities; never another row of the held-out modality.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.adaptation.captioner import Captioner, CopyCaptioner, ProjectorCaptioner
from pipeline.adaptation.finetune import finetune
from pipeline.adaptation.ridge import fit_ridge
from pipeline.adaptation.support import SupportSet, shuffle_texts
from pipeline.config.schema import ExperimentConfig, FinetuneConfig, MethodName
from pipeline.episodes.width import fit_width_map
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.models.semi import Semi, fold_width_map


class Method(Protocol):
    """Fits a captioner to a support set."""

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """A pure function of the support and the seed."""


def count_parameters(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True, kw_only=True, eq=False)
class SemiMethod:
    """Generate the adapter, merge it, fine-tune the merged projector (METHOD section 2.3)."""

    semi: Semi
    """Meta-trained model."""
    llm: FrozenLLM
    """Frozen LLM."""
    finetuning: FinetuneConfig
    """Steps on the merged projector; 0 deploys the adapter as generated."""
    chunk: int
    """Largest support read at once."""
    shuffled: bool = False
    """The control: the hypernetwork and the fine-tuning see captions of other pairs."""

    def project(self, support: SupportSet, seed: int) -> Projector:
        """The merged (and fine-tuned) projector."""
        if self.shuffled:
            support = shuffle_texts(support, seed)
        device = self.llm.model.device
        merged = self.semi.integrate(support.batch(device), chunk=self.chunk, width_seed=seed)
        return finetune(merged, self.llm, support, self.finetuning, seed=seed)

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """A captioner with the projector made of this support."""
        projector = self.project(support, seed)
        trained = count_parameters(projector) if self.finetuning.steps else 0
        return ProjectorCaptioner(projector=projector, llm=self.llm, trained_parameters=trained)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedProjectorMethod:
    """A projector trained on the support alone: `from_scratch`, or from the pre-trained weights."""

    projector: Projector
    """After stage 1; from scratch only its shape counts."""
    from_scratch: bool
    """Whether training starts at fresh weights."""
    llm: FrozenLLM
    """Frozen LLM."""
    finetuning: FinetuneConfig
    """Training budget."""

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """Bring the input to the encoder's width, then train."""
        projector = finetune(self._start(support, seed), self.llm, support, self.finetuning, seed=seed)
        return ProjectorCaptioner(projector=projector, llm=self.llm, trained_parameters=count_parameters(projector))

    def _start(self, support: SupportSet, seed: int) -> Projector:
        width = support.embeddings_KE.shape[1]
        if self.from_scratch:
            torch.manual_seed(seed)
            return self.projector.like(input_width=width)
        if width == self.projector.input_width:
            return self.projector
        width_map = fit_width_map(
            support.embeddings_KE, self.projector.input_width, kind=self.projector.width_map, seed=seed
        )
        return fold_width_map(self.projector, width_map)


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeMethod:
    """Ridge regression to text space, then the projector's text path; no gradient steps."""

    pretrained: Projector
    """Must have seen text as a modality."""
    llm: FrozenLLM
    """Frozen LLM."""
    penalties: tuple[float, ...]
    """Tried by leave-one-out inside the support."""

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """Closed form; the seed is not used."""
        device = self.llm.model.device
        ridge = fit_ridge(support.embeddings_KE.to(device), support.texts_KW.to(device), self.penalties)
        size = ridge.matrix_EW.numel() + ridge.x_mean_E.numel() + ridge.t_mean_W.numel()
        return ProjectorCaptioner(
            projector=self.pretrained, llm=self.llm, trained_parameters=size, before=ridge, extra_parameters=size
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class KnnCopyMethod:
    """Copies the caption of one of the k nearest support samples: the one whose text is closest to all k."""

    neighbours: int
    """k."""

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """Keeps the support; the seed is not used."""
        k = min(self.neighbours, support.shots)

        def choose(embeddings_NE: Tensor) -> Tensor:
            nearest_Nk = (embeddings_NE @ support.embeddings_KE.T).topk(k, dim=1).indices
            texts_NkW = support.texts_KW[nearest_Nk]
            agreement_Nk = (texts_NkW @ texts_NkW.mT).sum(dim=-1)
            # Ties (k <= 2, duplicate captions) go to the nearest: argmax returns the first maximum after rounding.
            best_N = agreement_Nk.mul(1e5).round().argmax(dim=1)
            return nearest_Nk.gather(1, best_N.unsqueeze(1)).squeeze(1)

        return CopyCaptioner(
            choose=choose, captions=support.captions, deployed_parameters=support.embeddings_KE.numel()
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ConstantMethod:
    """Always the support's most frequent caption (the first of equals)."""

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """Counts captions; the seed is not used."""
        caption, _ = Counter(support.captions).most_common(1)[0]
        position = support.captions.index(caption)
        return CopyCaptioner(
            choose=lambda embeddings_NE: torch.full((len(embeddings_NE),), position),
            captions=support.captions,
            deployed_parameters=0,
        )


def build_methods(
    config: ExperimentConfig, *, llm: FrozenLLM, pretrained: Projector, semi: Semi
) -> dict[MethodName, Method]:
    """The configured methods, in order."""
    integrate, evaluate = config.integrate, config.evaluate
    no_steps = FinetuneConfig(steps=0)
    every: dict[MethodName, Method] = {
        "semi": SemiMethod(semi=semi, llm=llm, finetuning=integrate.finetune, chunk=integrate.chunk),
        "semi_shuffled_text": SemiMethod(
            semi=semi, llm=llm, finetuning=integrate.finetune, chunk=integrate.chunk, shuffled=True
        ),
        "semi_no_finetune": SemiMethod(semi=semi, llm=llm, finetuning=no_steps, chunk=integrate.chunk),
        "scratch": TrainedProjectorMethod(
            projector=pretrained, from_scratch=True, llm=llm, finetuning=evaluate.scratch
        ),
        "finetuned_projector": TrainedProjectorMethod(
            projector=pretrained, from_scratch=False, llm=llm, finetuning=evaluate.finetuned_projector
        ),
        "ridge": RidgeMethod(pretrained=pretrained, llm=llm, penalties=evaluate.ridge_penalties),
        "knn_copy": KnnCopyMethod(neighbours=evaluate.knn),
        "constant": ConstantMethod(),
    }
    return {name: every[name] for name in config.evaluate.methods}

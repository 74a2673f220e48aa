"""Baselines that train a projector on the support alone.

In: a support set and a seed.  Out: a captioner with a projector trained by the same `finetune` as SEMI's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pipeline.adaptation.captioner import Captioner, ProjectorCaptioner
from pipeline.adaptation.finetune import Finetuned, Start
from pipeline.adaptation.methods.base import TrainedMethod, count_parameters
from pipeline.adaptation.support import SupportSet
from pipeline.episodes.width import fit_width_map
from pipeline.models.projector import Projector
from pipeline.models.projector_variants import LinearProjector, LoraProjector, lora_rank
from pipeline.models.semi import Semi, fold_width_map


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedProjectorMethod(TrainedMethod):
    """A projector trained on the support alone: `from_scratch`, or from the pre-trained weights."""

    projector: Projector
    """After stage 1; from scratch only its shape counts."""
    from_scratch: bool
    """Whether training starts at fresh weights."""
    stochastic: ClassVar[bool] = True

    def begin(self, support: SupportSet, seed: int) -> Start:
        """Fresh weights of the seed, or the pre-trained ones, reading the encoder's width."""
        if self.from_scratch:
            torch.manual_seed(seed)
            projector = self.projector.like(input_width=support.embeddings_KE.shape[1])
        else:
            projector = reading_encoder(self.projector, support, seed)
        return Start(projector=projector, support=support, seed=seed)


def reading_encoder(projector: Projector, support: SupportSet, seed: int) -> Projector:
    """A pre-trained projector that reads the support's encoder: as it is, or behind a folded width map."""
    if support.embeddings_KE.shape[1] == projector.input_width:
        return projector
    width_map = fit_width_map(support.embeddings_KE, projector.input_width, kind=projector.width_map, seed=seed)
    return fold_width_map(projector, width_map)


@dataclass(frozen=True, kw_only=True, eq=False)
class LimberMethod(TrainedMethod):
    """One linear layer from the embedding to the soft tokens, trained on the support."""

    projector: Projector
    """Its LLM width counts, and its soft tokens where no other number is given."""
    soft_tokens: int | None
    """S; None: the shared projector's. The paper's one-token form is 1."""
    stochastic: ClassVar[bool] = True

    def begin(self, support: SupportSet, seed: int) -> Start:
        """Fresh weights of the seed, of the encoder's own width."""
        torch.manual_seed(seed)
        fresh = LinearProjector(
            support.embeddings_KE.shape[1],
            self.projector.llm_width,
            soft_tokens=self.soft_tokens or self.projector.soft_tokens,
        )
        return Start(projector=fresh.to(self.llm.model.device), support=support, seed=seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomLoraMethod(TrainedMethod):
    """Random low-rank updates of the pre-trained projector, trained on the support.

    Their rank is the one whose factors hold nearest to as many numbers as the adapter that SEMI generates for this
    support (A, B and biases of all adapted layers). They are deployed merged, as SEMI's are.
    """

    projector: Projector
    """After stage 1; frozen."""
    semi: Semi
    """Only the size of its adapter is used."""
    chunk: int
    """Largest support that SEMI reads at once."""
    stochastic: ClassVar[bool] = True

    def begin(self, support: SupportSet, seed: int) -> Start:
        """Factors A of the seed, B = 0."""
        generated, _ = self.semi.generate(support.batch(self.llm.model.device), chunk=self.chunk, width_seed=seed)
        base = reading_encoder(self.projector, support, seed)
        torch.manual_seed(seed)
        start = LoraProjector(base, lora_rank(base, sum(layer.size for layer in generated if layer is not None)))
        return Start(projector=start, support=support, seed=seed)

    def end(self, made: Finetuned) -> Captioner:
        """A captioner with the update merged."""
        tuned = made.projector
        assert isinstance(tuned, LoraProjector)
        trained = count_parameters(tuned, trainable=True)
        return ProjectorCaptioner(projector=tuned.plain(), llm=self.llm, trained_parameters=trained)

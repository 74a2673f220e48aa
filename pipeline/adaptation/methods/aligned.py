"""Baselines that align the encoder with text space in closed form (METHOD sections 5 and 7).

In: a support set.  Out: the map and the projector's text path, as fitted or as the start of fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pipeline.adaptation.alignment import TextMap, fold_text_map
from pipeline.adaptation.captioner import Captioner, ProjectorCaptioner
from pipeline.adaptation.finetune import finetune
from pipeline.adaptation.methods.base import count_parameters
from pipeline.adaptation.support import SupportSet
from pipeline.config.schema import FinetuneConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector

FitMap = Callable[[Tensor, Tensor], TextMap]
"""Embeddings `[K, E]` and text embeddings `[K, W]` to a map."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedMethod:
    """A map to text space, then the projector's text path; folded into the projector and fine-tuned if asked."""

    fit_map: FitMap
    """Ridge regression, Procrustes or CCA, its settings chosen inside the support."""
    pretrained: Projector
    """Must have seen text as a modality."""
    llm: FrozenLLM
    """Frozen LLM."""
    finetuning: FinetuneConfig | None = None
    """Steps on the projector that the map was folded into (`fold_text_map` says what becomes of its normalisation);
    None: the map as fitted."""

    @property
    def stochastic(self) -> bool:
        """Closed forms draw nothing; fine-tuning orders the pairs."""
        return self.finetuning is not None and self.finetuning.steps > 0

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """The closed form; the seed is fine-tuning's."""
        device = self.llm.model.device
        text_map = self.fit_map(support.embeddings_KE.to(device), support.texts_KW.to(device))
        if self.finetuning is None:
            return ProjectorCaptioner(
                projector=self.pretrained,
                llm=self.llm,
                trained_parameters=text_map.size,
                before=text_map,
                extra_parameters=text_map.size,
            )
        start = fold_text_map(self.pretrained, text_map)
        projector = finetune(start, self.llm, support, self.finetuning, seed=seed).projector
        return ProjectorCaptioner(projector=projector, llm=self.llm, trained_parameters=count_parameters(projector))

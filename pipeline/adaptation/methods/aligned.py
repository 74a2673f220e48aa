"""Baselines that align the encoder with text space in closed form (METHOD sections 5 and 7).

In: a support set.  Out: the map and the projector's text path, as fitted or as the start of fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pipeline.adaptation.alignment import TextMap, fold_text_map
from pipeline.adaptation.captioner import Captioner, ProjectorCaptioner
from pipeline.adaptation.finetune import Finetuned, Start
from pipeline.adaptation.methods.base import TrainedMethod, count_parameters
from pipeline.adaptation.support import SupportSet
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector

FitMap = Callable[[Tensor, Tensor], TextMap]
"""Embeddings `[K, E]` and text embeddings `[K, W]` to a map."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedMethod:
    """A map to text space as fitted, then the projector's text path."""

    fit_map: FitMap
    """Ridge regression, Procrustes or CCA, its settings chosen inside the support."""
    pretrained: Projector
    """Must have seen text as a modality."""
    llm: FrozenLLM
    """Frozen LLM."""
    stochastic: ClassVar[bool] = False

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """The closed form; nothing is drawn."""
        text_map = _fitted(self.fit_map, support, self.llm)
        return ProjectorCaptioner(
            projector=self.pretrained,
            llm=self.llm,
            trained_parameters=text_map.size,
            before=text_map,
            extra_parameters=text_map.size,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedInitMethod(TrainedMethod):
    """The same map folded into the projector's first layer (`fold_text_map`), then fine-tuned."""

    fit_map: FitMap
    """Ridge regression, Procrustes or CCA, its settings chosen inside the support."""
    pretrained: Projector
    """Must have seen text as a modality."""

    @property
    def stochastic(self) -> bool:
        """Closed forms draw nothing; fine-tuning orders the pairs."""
        return self.finetuning.steps > 0

    def begin(self, support: SupportSet, seed: int) -> Start:
        """The closed form, folded; the seed is that of the steps."""
        folded = fold_text_map(self.pretrained, _fitted(self.fit_map, support, self.llm))
        return Start(projector=folded, support=support, seed=seed)

    def end(self, made: Finetuned) -> Captioner:
        """A captioner with the projector, all of which the support chose."""
        trained = count_parameters(made.projector)
        return ProjectorCaptioner(projector=made.projector, llm=self.llm, trained_parameters=trained)


def _fitted(fit_map: FitMap, support: SupportSet, llm: FrozenLLM) -> TextMap:
    device = llm.model.device
    return fit_map(support.embeddings_KE.to(device), support.texts_KW.to(device))

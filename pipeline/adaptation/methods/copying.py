"""Baselines that copy captions of the support, or show them to the LLM.

In: a support set.  Out: captioners whose text comes from the support's captions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.adaptation.captioner import Captioner, CopyCaptioner
from pipeline.adaptation.support import SupportSet
from pipeline.config.schema import RetrievalConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.prompt import encode_text

_PROMPTS_PER_BATCH = 64


def nearest(embeddings_NE: Tensor, support: SupportSet, k: int) -> Tensor:
    """Positions `[N, k]` of the k most similar pairs (all, where there are fewer), most similar first."""
    similarity_NK = embeddings_NE.to(support.embeddings_KE) @ support.embeddings_KE.T
    return similarity_NK.topk(min(k, support.shots), dim=1).indices


@dataclass(frozen=True, kw_only=True, eq=False)
class KnnCopyMethod:
    """Copies the caption of one of the k nearest support samples: the one whose text is closest to all k."""

    neighbours: int
    """k."""
    stochastic: ClassVar[bool] = False

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """Keeps the support; the seed is not used."""

        def choose(embeddings_NE: Tensor) -> Tensor:
            nearest_Nk = nearest(embeddings_NE, support, self.neighbours)
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

    stochastic: ClassVar[bool] = False

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """Counts captions; the seed is not used."""
        caption, _ = Counter(support.captions).most_common(1)[0]
        position = support.captions.index(caption)
        return CopyCaptioner(
            choose=lambda embeddings_NE: torch.full((len(embeddings_NE),), position),
            captions=support.captions,
            deployed_parameters=0,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalIclMethod:
    """The captions of the nearest support samples as a text-only prompt: in-context learning of the same LLM."""

    llm: FrozenLLM
    """Frozen LLM."""
    settings: RetrievalConfig
    """Neighbours and prompt."""
    stochastic: ClassVar[bool] = False

    def fit(self, support: SupportSet, seed: int) -> Captioner:
        """Keeps the support; the seed is not used."""
        return RetrievalCaptioner(llm=self.llm, settings=self.settings, support=support)


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalCaptioner:
    """Prompts the LLM with retrieved captions."""

    llm: FrozenLLM
    """Decodes greedily."""
    settings: RetrievalConfig
    """Neighbours and prompt."""
    support: SupportSet
    """Searched by cosine similarity."""
    trained_parameters: int = 0
    """None are trained."""

    @property
    def deployed_parameters(self) -> int:
        """The support's embeddings."""
        return self.support.embeddings_KE.numel()

    def caption(self, embeddings_NE: Tensor) -> list[str]:
        """Captions of embeddings."""
        positions_Nk = nearest(embeddings_NE, self.support, self.settings.neighbours)
        prompts = [self._prompt([self.support.captions[int(position)] for position in row]) for row in positions_Nk]
        captions: list[str] = []
        for start in range(0, len(prompts), _PROMPTS_PER_BATCH):
            captions += self.llm.generate_from_text(prompts[start : start + _PROMPTS_PER_BATCH])
        return captions

    def _prompt(self, captions: list[str]) -> list[int]:
        """Token ids; the nearest caption comes last, the farthest ones are dropped until the prompt fits."""
        config, limit = self.llm.config, self.llm.context_tokens
        ids: list[int] = []
        for count in range(len(captions), 0, -1):
            listed = self.settings.separator.join(reversed(captions[:count]))
            ids = encode_text(self.llm.tokenizer, config, self.settings.prompt.replace("{captions}", listed))
            if limit is None or len(ids) + config.max_caption_tokens <= limit:
                return ids
        raise ValueError(
            f"evaluate.retrieval.prompt with one caption has {len(ids)} tokens, which leaves no room for "
            f"llm.max_caption_tokens={config.max_caption_tokens} in the LLM's context of {limit}: shorten the "
            "prompt, lower llm.max_caption_tokens, or remove retrieval_icl from evaluate.methods"
        )

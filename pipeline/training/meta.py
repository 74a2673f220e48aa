"""Stage 2: episodes of synthetic modalities train the hypernetwork (METHOD section 2.2).

In: training rows of every high-resource (modality, encoder), text rows that play a modality, a `Semi` model, the
frozen LLM.
Out: a task for `training.loop`; its module is the `Semi` model, whose projector is frozen unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.config.schema import EpisodeConfig, MetaConfig
from pipeline.episodes.collate import EpisodeBuilder
from pipeline.episodes.sampler import EpisodeSampler
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.semi import Semi
from pipeline.training.sources import SplitRows


class MetaTask:
    """Caption loss of the queries under the adapters that the hypernetwork makes of the supports."""

    def __init__(
        self,
        semi: Semi,
        llm: FrozenLLM,
        *,
        paired: Sequence[SplitRows],
        texts: Sequence[SplitRows] = (),
        episodes: EpisodeConfig,
        config: MetaConfig,
        seed: int,
    ) -> None:
        sources = [*paired, *texts]
        if not sources:
            raise ValueError("meta-training needs at least one dataset with role 'train'; the configuration has none")
        sampler = EpisodeSampler(
            sizes=[len(rows) for rows in sources],
            modalities=[rows.modality for rows in sources],
            config=episodes,
            seed=seed,
            texts={rows.modality for rows in texts},
        )
        self.module: nn.Module = semi
        self.slots_per_step = config.episodes_per_step
        self.queries_per_slot = episodes.queries
        self._llm = llm
        self._builder = EpisodeBuilder(
            sources,
            sampler,
            config=episodes,
            common_width=semi.hypernet.common_width,
            width_map=semi.projector.width_map,
            texts=range(len(paired), len(sources)),
        )

    def loss(self, module: nn.Module, step: int, slots: range, device: torch.device) -> Tensor:
        """Mean caption loss over the queries of the given episodes: one batched forward, no loop over episodes."""
        batch = self._builder.build(step, slots, device)
        soft_NBSD = module(batch)
        captions = [caption for episode in batch.captions for caption in episode]
        return self._llm.caption_losses(soft_NBSD.flatten(0, 1), captions).mean()

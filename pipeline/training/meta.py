"""Stage 2: episodes of synthetic modalities train the hypernetwork (METHOD section 2.2).

In: training rows of every high-resource (modality, encoder), text rows that play a modality, a `Semi` model, the
frozen LLM.
Out: a task for `training.loop`; its module is the `Semi` model, whose projector is frozen unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.config.schema import EpisodeConfig, MetaConfig
from pipeline.episodes.batch import EpisodeBatch
from pipeline.episodes.collate import EpisodeBuilder, NotFiniteError
from pipeline.episodes.dropout import KeepMasks
from pipeline.episodes.sampler import EpisodeSampler
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.semi import Semi
from pipeline.training.sources import SplitRows, list_ids


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
        self._llm, self._sampler, self._sources = llm, sampler, sources
        trained = semi.projector.dropout if semi.train_projector else 0.0
        self._keep = KeepMasks((episodes.queries, semi.projector.inner_width), trained, seed=seed)
        self._builder = EpisodeBuilder(
            sources,
            sampler,
            config=episodes,
            common_width=semi.hypernet.common_width,
            width_map=semi.projector.width_map,
            texts=range(len(paired), len(sources)),
        )

    def prepare(self, step: int, slots: range, device: torch.device) -> EpisodeBatch:
        """The given episodes of `step`."""
        try:
            batch = self._builder.build(step, slots, device)
        except NotFiniteError as error:
            bad = next(
                slot for slot in slots if self._sampler.episode(step, slot).isometry_seed == error.spec.isometry_seed
            )
            rows = list_ids(self._sources[error.spec.dataset], error.rows)
            raise ValueError(
                f"{self.describe(step, bad)}: {error.what} of {rows} are not finite; extract this dataset again"
            ) from error
        ids = self._llm.caption_ids([caption for episode in batch.captions for caption in episode])
        return replace(batch, caption_ids=ids, keep_NBP=self._keep.draw(step, slots, device))

    def losses(self, module: nn.Module, batch: EpisodeBatch) -> Tensor:
        """Mean caption loss over each episode's queries, `[N]`: one batched forward, no loop over episodes."""
        if batch.caption_ids is None:
            raise ValueError("the batch holds no tokens of its captions; make it by `prepare`")
        soft_NBSD = module(batch)
        return self._llm.token_losses(soft_NBSD.flatten(0, 1), batch.caption_ids).view(soft_NBSD.shape[:2]).mean(dim=1)

    def describe(self, step: int, slot: int) -> str:
        """Coordinates of an episode."""
        spec = self._sampler.episode(step, slot)
        source = self._sources[spec.dataset]
        return (
            f"step {step}, slot {slot} (modality {source.modality!r}, encoder {source.encoder!r}, support "
            f"{list_ids(source, spec.support_K)}, queries {list_ids(source, spec.query_B)}, isometry seed "
            f"{spec.isometry_seed})"
        )

"""Episode specs to tensors.

In: `EpisodeSource`s (training rows of embedding datasets) and a sampler.  Out: an `EpisodeBatch` for a worker.

Narrow encoders are zero-padded to the widest of the batch: inner products, all that an equivariant hypernetwork reads,
do not change. A hypernetwork with a fixed common width gets every episode mapped to it first (`width.WidthMap`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

from pipeline.config.schema import EpisodeConfig, WidthMapKind
from pipeline.episodes.augmentation import sample_augmentation
from pipeline.episodes.batch import EpisodeBatch, SupportBatch
from pipeline.episodes.distortion import distort
from pipeline.episodes.sampler import EpisodeSampler, EpisodeSpec
from pipeline.episodes.width import fit_width_map

Rows = npt.NDArray[np.int64]


class NotFiniteError(ValueError):
    """A source gave values that are not finite."""

    def __init__(self, spec: EpisodeSpec, what: str, rows: Rows) -> None:
        super().__init__(f"{what} of dataset {spec.dataset}, rows {rows.tolist()}, are not finite")
        self.spec, self.what, self.rows = spec, what, rows


class EpisodeSource(Protocol):
    """Rows an episode may use; `pipeline.shards` datasets restricted to one split satisfy it."""

    @property
    def instruction_W(self) -> Tensor:
        """Text embedding of the modality's instruction."""

    def __len__(self) -> int: ...

    def embeddings(self, rows: Rows) -> Tensor:
        """L2-normalised `[n, E]`, float32."""

    def text_embeddings(self, rows: Rows) -> Tensor:
        """L2-normalised `[n, W]`, float32."""

    def captions(self, rows: Rows) -> list[tuple[str, ...]]:
        """Captions of each row."""


class EpisodeBuilder:
    """Builds the batch of any (step, slots)."""

    def __init__(
        self,
        sources: Sequence[EpisodeSource],
        sampler: EpisodeSampler,
        *,
        config: EpisodeConfig,
        common_width: int | None,
        width_map: WidthMapKind,
        texts: Collection[int] = (),
    ) -> None:
        """`texts`: indices of the sources in which text plays a signal's part."""
        self._sources, self._sampler, self._config = sources, sampler, config
        self._common_width, self._width_map = common_width, width_map
        self._texts = frozenset(texts)

    @record_function("episodes")
    def build(self, step: int, slots: Sequence[int], device: torch.device | str = "cpu") -> EpisodeBatch:
        """Episodes `slots` of `step` on `device`."""
        specs = [self._sampler.episode(step, slot) for slot in slots]
        parts = [self._read(spec, device) for spec in specs]
        widest = max(support.shape[1] for support, _, _ in parts)
        pad = [
            (functional.pad(s, (0, widest - s.shape[1])), functional.pad(q, (0, widest - q.shape[1])))
            for s, q, _ in parts
        ]
        sources = [self._sources[spec.dataset] for spec in specs]
        return EpisodeBatch(
            support=SupportBatch(
                embeddings_NKE=torch.stack([support for support, _ in pad]),
                texts_NKW=torch.stack([text for _, _, text in parts]),
                instructions_NW=torch.stack([source.instruction_W for source in sources]).to(device),
            ),
            queries_NBE=torch.stack([query for _, query in pad]),
            captions=tuple(
                tuple(captions[0] for captions in source.captions(spec.query_B))
                for source, spec in zip(sources, specs, strict=True)
            ),
        )

    def _read(self, spec: EpisodeSpec, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
        source = self._sources[spec.dataset]
        shots = len(spec.support_K)
        # One read of the memory map an episode: support and queries together.
        rows = np.concatenate([spec.support_K, spec.query_B])
        both, texts = source.embeddings(rows), source.text_embeddings(spec.support_K)
        _check_finite(spec, "embeddings", both, rows)
        _check_finite(spec, "text embeddings", texts, spec.support_K)
        both = both.to(device)
        if self._common_width is not None and both.shape[1] != self._common_width:
            both = fit_width_map(both[:shots], self._common_width, kind=self._width_map, seed=spec.isometry_seed)(both)
        config = self._config
        count, width = both.shape
        both = sample_augmentation(config.isometry, width, spec.isometry_seed, rows=count, device=device)(both)
        if spec.dataset in self._texts:
            both = distort(both, scale=config.text_scale, noise=config.text_noise, seed=spec.isometry_seed)
        return both[:shots], both[shots:], texts.to(device)


def _check_finite(spec: EpisodeSpec, what: str, values: Tensor, rows: Rows) -> None:
    """Before any arithmetic: a rotation, or a map fitted on them, would spread them over all rows."""
    bad = ~torch.isfinite(values).all(dim=1)
    if bad.any():
        raise NotFiniteError(spec, what, rows[bad.cpu().numpy()])

"""Episode specs to tensors.

In: `EpisodeSource`s (training rows of embedding datasets) and a sampler.  Out: an `EpisodeBatch` for a worker.

Narrow encoders are zero-padded to the widest of the batch: inner products, all that an equivariant hypernetwork reads,
do not change. A hypernetwork with a fixed common width gets every episode mapped to it first (`width.WidthMap`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import record_function

from pipeline.config.schema import EpisodeConfig, WidthMapKind
from pipeline.episodes.augmentation import augment
from pipeline.episodes.batch import EpisodeBatch, SupportBatch
from pipeline.episodes.distortion import distort
from pipeline.episodes.sampler import EpisodeSampler, EpisodeSpec
from pipeline.episodes.width import fit_width_map
from pipeline.transfer import to_device

Rows = npt.NDArray[np.int64]
Captions = tuple[tuple[str, ...], ...]


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
        slots_of: dict[int, list[int]] = defaultdict(list)
        for slot, spec in enumerate(specs):
            slots_of[spec.dataset].append(slot)
        parts = [self._read(dataset, [specs[slot] for slot in chosen], device) for dataset, chosen in slots_of.items()]
        rows_NnE, texts_NKW = parts[0]
        if len(parts) > 1:
            widest = max(rows.shape[-1] for rows, _ in parts)
            padded = [functional.pad(rows, (0, widest - rows.shape[-1])) for rows, _ in parts]
            back = torch.tensor([slot for chosen in slots_of.values() for slot in chosen]).argsort()
            back = to_device(back, device)
            rows_NnE, texts_NKW = torch.cat(padded)[back], torch.cat([texts for _, texts in parts])[back]
        shots = texts_NKW.shape[1]
        instructions_NW = torch.stack([self._sources[spec.dataset].instruction_W for spec in specs])
        return EpisodeBatch(
            support=SupportBatch(
                embeddings_NKE=rows_NnE[:, :shots],
                texts_NKW=texts_NKW,
                instructions_NW=to_device(instructions_NW, device),
            ),
            queries_NBE=rows_NnE[:, shots:],
            captions=self._captions(specs, slots_of),
        )

    def _read(self, dataset: int, specs: Sequence[EpisodeSpec], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Rows `[M, n, E]` (support, then queries) and texts `[M, K, W]` of M episodes of one dataset."""
        source, config = self._sources[dataset], self._config
        # One read of the memory map for all of them: support and queries together.
        rows = np.stack([np.concatenate([spec.support_K, spec.query_B]) for spec in specs])
        support = np.stack([spec.support_K for spec in specs])
        host, texts = source.embeddings(rows.ravel()), source.text_embeddings(support.ravel())
        _check_finite(specs, "embeddings", host, rows)
        _check_finite(specs, "text embeddings", texts, support)
        rows_MnE = to_device(host, device).unflatten(0, rows.shape)
        seeds = [spec.isometry_seed for spec in specs]
        if self._common_width is not None and host.shape[1] != self._common_width:
            rows_MnE = torch.stack(
                [
                    fit_width_map(both[: support.shape[1]], self._common_width, kind=self._width_map, seed=seed)(both)
                    for both, seed in zip(rows_MnE, seeds, strict=True)
                ]
            )
        rows_MnE = augment(rows_MnE, config.isometry, seeds)
        if dataset in self._texts:
            scale, noise = config.text_scale, config.text_noise
            pairs = zip(rows_MnE, seeds, strict=True)
            rows_MnE = torch.stack([distort(both, scale=scale, noise=noise, seed=seed) for both, seed in pairs])
        return rows_MnE, to_device(texts, device).unflatten(0, support.shape)

    def _captions(self, specs: Sequence[EpisodeSpec], slots_of: Mapping[int, list[int]]) -> Captions:
        """The first caption of each query of each episode."""
        found: dict[int, tuple[str, ...]] = {}
        for dataset, chosen in slots_of.items():
            rows = np.stack([specs[slot].query_B for slot in chosen])
            first = [captions[0] for captions in self._sources[dataset].captions(rows.ravel())]
            queries = rows.shape[1]
            found |= {slot: tuple(first[i * queries : (i + 1) * queries]) for i, slot in enumerate(chosen)}
        return tuple(found[slot] for slot in range(len(specs)))


def _check_finite(specs: Sequence[EpisodeSpec], what: str, values: Tensor, rows: Rows) -> None:
    """Before any arithmetic: a rotation, or a map fitted on them, would spread them over all rows.

    `rows` `[M, n]` are those of each episode, `values` theirs one behind another.
    """
    # A sum with anything else in it is not finite, and costs a tenth of looking for it.
    if torch.isfinite(values.sum()):
        return
    bad_Mn = ~torch.isfinite(values).all(dim=1).numpy().reshape(rows.shape)
    for spec, bad_n, rows_n in zip(specs, bad_Mn, rows, strict=True):
        if bad_n.any():
            raise NotFiniteError(spec, what, rows_n[bad_n])

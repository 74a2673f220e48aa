"""Which modality, rows and isometry an episode has: a pure function of (seed, step, slot).

In: the sizes of the training modalities.  Out: `EpisodeSpec`s, the same ones for any number of workers, in any order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.schema import EpisodeConfig

_SHOTS_STREAM, _EPISODE_STREAM = 1, 2


def philox(*key: int) -> np.random.Generator:
    """Counter-based generator of a tuple of non-negative integers: no global state, no order of calls."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeSpec:
    """Coordinates of one episode."""

    dataset: int
    """Index of the (modality, encoder) dataset."""
    support_K: npt.NDArray[np.int64]
    """Positions of the support pairs among the dataset's training rows."""
    query_B: npt.NDArray[np.int64]
    """Positions of the query pairs, disjoint from the support."""
    isometry_seed: int
    """Seed of the isometry that support and queries share."""


class EpisodeSampler:
    """Draws episodes over several datasets.

    `modalities[i]` names the modality of dataset i: a modality is drawn in proportion to `size ** size_exponent`
    (uniformly at 0), then one of its encoders uniformly. Modalities of `texts` are drawn among themselves, in
    `text_fraction` of all episodes.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        modalities: Sequence[str],
        config: EpisodeConfig,
        seed: int,
        texts: Collection[str] = (),
    ) -> None:
        check_sizes(sizes, modalities, config)
        self._sizes, self._config, self._seed = list(sizes), config, seed
        self._names = sorted(set(modalities))
        self._members = [[i for i, name in enumerate(modalities) if name == wanted] for wanted in self._names]
        weights = np.array([max(self._sizes[i] for i in group) for group in self._members], dtype=np.float64)
        weights = weights**config.size_exponent
        is_text = np.array([name in texts for name in self._names])
        for members, share in ((is_text, config.text_fraction), (~is_text, 1.0 - config.text_fraction)):
            if share and not members.any():
                raise ValueError(
                    f"episodes.text_fraction={config.text_fraction} needs a dataset with role "
                    f"{'text' if members is is_text else 'train'!r} that meta-training reads; add one, or set it to "
                    f"{int(members is not is_text)}"
                )
            weights[members] *= share / max(weights[members].sum(), np.finfo(np.float64).tiny)
        self._probabilities = weights / weights.sum()

    def shots(self, step: int) -> int:
        """K of a step: all episodes of a step have the same, so that they form one batch."""
        choices = self._config.support_shots
        if len(choices) == 1:
            return choices[0]
        return int(choices[philox(self._seed, _SHOTS_STREAM, step).integers(len(choices))])

    def episode(self, step: int, slot: int) -> EpisodeSpec:
        """Episode number `slot` of step `step`."""
        rng = philox(self._seed, _EPISODE_STREAM, step, slot)
        group = self._members[rng.choice(len(self._members), p=self._probabilities)]
        dataset = group[rng.integers(len(group))]
        shots = self.shots(step)
        rows = rng.choice(self._sizes[dataset], size=shots + self._config.queries, replace=False)
        return EpisodeSpec(
            dataset=dataset,
            support_K=rows[:shots].astype(np.int64),
            query_B=rows[shots:].astype(np.int64),
            isometry_seed=int(rng.integers(2**63 - 1)),
        )


def check_sizes(sizes: Sequence[int], modalities: Sequence[str], config: EpisodeConfig) -> None:
    """Raise where a modality has too few rows for the support and the queries of an episode."""
    needed = max(config.support_shots) + config.queries
    for size, modality in zip(sizes, modalities, strict=True):
        if size < needed:
            raise ValueError(
                f"modality {modality!r} has {size} training rows but episodes need {needed} "
                f"(episodes.support_shots {max(config.support_shots)} + episodes.queries {config.queries}); "
                "lower one of them or add pairs"
            )


def worker_slots(total: int, rank: int, world_size: int) -> range:
    """The slots of a step that a worker computes; the slots of all workers are 0..total-1, each once."""
    if total % world_size:
        raise ValueError(
            f"{total} items a step cannot be split evenly over {world_size} workers; choose a multiple of {world_size} "
            "(meta.episodes_per_step, pretrain.batch_size) or another runtime.workers"
        )
    return range(rank, total, world_size)


def slot_parts(slots: range, parts: int) -> list[range]:
    """A worker's slots of a step in consecutive parts of one size."""
    if len(slots) % parts:
        raise ValueError(
            f"micro_batches={parts} does not divide the {len(slots)} items that each worker has a step; choose a "
            f"divisor of {len(slots)}, or another number of items or workers (meta.micro_batches, "
            "meta.episodes_per_step; pretrain.micro_batches, pretrain.batch_size; runtime.workers)"
        )
    size = len(slots) // parts
    return [slots[start : start + size] for start in range(0, len(slots), size)]

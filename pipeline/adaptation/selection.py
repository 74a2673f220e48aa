"""Which pairs of a support are kept out to choose the number of steps by, and which number won.

In: K, the settings and a seed.  Out: splits of the K positions, the numbers of steps that are compared, the best one.
Nothing here can see more than the support: only positions 0..K-1 go in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.schema import FinetuneConfig
from pipeline.episodes.sampler import philox

_SELECTION_STREAM = 29


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of the support."""

    fitted: tuple[int, ...]
    """Trained on."""
    kept_out: tuple[int, ...]
    """Scored."""


def selection_splits(shots: int, config: FinetuneConfig, seed: int) -> list[Split]:
    """Splits to choose the number of steps by; none where it is fixed, and none for a single pair.

    A hold-out keeps out at least one pair and leaves at least one. Folds number at most K: then each pair is left out.
    """
    if config.selection == "fixed" or shots < 2 or config.steps == 0:
        return []
    order = philox(seed, _SELECTION_STREAM).permutation(shots).tolist()
    if config.selection == "holdout":
        count = min(max(1, round(shots * config.holdout_fraction)), shots - 1)
        parts = [order[:count]]
    else:
        folds = min(config.folds, shots)
        parts = [order[fold::folds] for fold in range(folds)]
    return [Split(fitted=tuple(sorted(set(order) - set(part))), kept_out=tuple(sorted(part))) for part in parts]


def step_candidates(steps: int) -> list[int]:
    """0, 1/4, 1/2, 3/4 and all of `steps`, each number once."""
    return sorted({round(steps * quarter / 4) for quarter in range(5)})


def best_candidate(candidates: Sequence[int], losses: Sequence[float]) -> int:
    """The number of steps with the lowest loss on pairs kept out; the smallest one of equals."""
    return min(zip(losses, candidates, strict=True))[1]

"""Episodes are pure functions of (seed, step, slot)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.schema import EpisodeConfig
from pipeline.episodes.sampler import EpisodeSampler, slot_parts, worker_slots


def _sampler(seed: int = 0, **changes: object) -> EpisodeSampler:
    values: dict[str, object] = {"support_shots": (4, 8), "queries": 5}
    config = EpisodeConfig(**values | changes)  # type: ignore[arg-type]
    return EpisodeSampler(sizes=[40, 30, 90], modalities=["image", "image", "audio"], config=config, seed=seed)


@given(seed=st.integers(0, 2**31), step=st.integers(0, 2**40), slot=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_support_and_query_are_disjoint_and_in_range(seed: int, step: int, slot: int) -> None:
    sampler = _sampler(seed)
    spec = sampler.episode(step, slot)
    rows = np.concatenate([spec.support_K, spec.query_B])
    assert len(np.unique(rows)) == len(rows) == sampler.shots(step) + 5
    assert rows.min() >= 0 and rows.max() < [40, 30, 90][spec.dataset]


def test_same_coordinates_same_episode_in_any_order() -> None:
    forwards = [_sampler().episode(step, slot) for step in range(3) for slot in range(4)]
    backwards = [_sampler().episode(step, slot) for step in reversed(range(3)) for slot in reversed(range(4))]
    for mine, theirs in zip(forwards, reversed(backwards), strict=True):
        assert mine.dataset == theirs.dataset and mine.isometry_seed == theirs.isometry_seed
        assert np.array_equal(mine.support_K, theirs.support_K) and np.array_equal(mine.query_B, theirs.query_B)
    assert len({spec.isometry_seed for spec in forwards}) == len(forwards)


def test_modalities_are_drawn_uniformly_or_by_size() -> None:
    def share_of_audio(exponent: float) -> float:
        sampler = _sampler(size_exponent=exponent)
        return float(np.mean([sampler.episode(step, 0).dataset == 2 for step in range(2000)]))

    assert abs(share_of_audio(0.0) - 0.5) < 0.05
    assert abs(share_of_audio(1.0) - 90 / 130) < 0.05


def test_text_modalities_get_their_share_of_the_episodes() -> None:
    config = EpisodeConfig(support_shots=(4,), queries=2, text_fraction=0.3)
    names = ["image", "text/a", "text/a", "text/b"]
    sampler = EpisodeSampler(sizes=[40] * 4, modalities=names, config=config, seed=0, texts={"text/a", "text/b"})
    drawn = [names[sampler.episode(step, 0).dataset] for step in range(3000)]
    for name, share in (("image", 0.7), ("text/a", 0.15), ("text/b", 0.15)):
        assert abs(drawn.count(name) / 3000 - share) < 0.04
    with pytest.raises(ValueError, match=r"episodes\.text_fraction=0\.3 needs a dataset with role 'text'"):
        EpisodeSampler(sizes=[40], modalities=["image"], config=config, seed=0)


def test_too_small_modality_is_named() -> None:
    with pytest.raises(ValueError, match=r"modality 'audio' has 10 training rows but episodes need 13"):
        EpisodeSampler(
            sizes=[40, 10],
            modalities=["image", "audio"],
            config=EpisodeConfig(support_shots=(4, 8), queries=5),
            seed=0,
        )


@given(world=st.integers(1, 8), per_worker=st.integers(1, 8))
def test_workers_share_all_slots_once(world: int, per_worker: int) -> None:
    parts = [worker_slots(world * per_worker, rank, world) for rank in range(world)]
    assert sorted(slot for part in parts for slot in part) == list(range(world * per_worker))
    assert {len(part) for part in parts} == {per_worker}


def test_uneven_split_is_refused() -> None:
    with pytest.raises(ValueError, match="5 items a step cannot be split evenly over 2 workers"):
        worker_slots(5, 0, 2)


@given(world=st.integers(1, 4), size=st.integers(1, 5), count=st.integers(1, 5))
def test_parts_are_a_workers_slots_in_order(world: int, size: int, count: int) -> None:
    slots = worker_slots(world * size * count, world - 1, world)
    parts = slot_parts(slots, count)
    assert [slot for part in parts for slot in part] == list(slots)
    assert [len(part) for part in parts] == [size] * count


def test_uneven_parts_are_refused() -> None:
    with pytest.raises(
        ValueError, match="micro_batches=3 does not divide the 4 items that each worker has a step; choose"
    ):
        slot_parts(worker_slots(8, 0, 2), 3)

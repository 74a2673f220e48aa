"""Which fits the protocol makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.load import override
from pipeline.config.presets import PRESETS
from pipeline.config.schema import DesignConfig, FinetuneConfig, Shots

SIZES: list[Shots] = [4, 32, "full"]


@given(draws=st.integers(1, 6), seeds=st.integers(1, 4), shots=st.sampled_from(SIZES), stochastic=st.booleans())
def test_every_draw_and_every_seed_is_there_and_none_twice(
    draws: int, seeds: int, shots: Shots, stochastic: bool
) -> None:
    for crossed_at in (None, (32,), ()):
        design = DesignConfig(seeds=seeds, crossed_at=crossed_at)
        fits = design.replicates(shots, draws=draws, stochastic=stochastic)
        assert len(set(fits)) == len(fits)
        used = 1 if shots == "full" else draws
        assert {draw for draw, _ in fits} == set(range(used))
        if not stochastic:
            assert fits == [(draw, 0) for draw in range(used)]
        elif shots == "full" or crossed_at is None or shots in crossed_at:
            assert len(fits) == used * seeds
        else:
            assert len(fits) == used
            assert {seed for _, seed in fits} == set(range(min(seeds, draws)))


def test_methods_and_further_encoders_are_scored_where_the_design_says() -> None:
    design = DesignConfig(further_encoders_at=(32,), methods_at={"semi_shuffled_text": (32, "full")})
    assert design.includes("semi", 4, 0) and design.includes("semi", 32, 1)
    assert not design.includes("semi", 4, 1)
    assert design.includes("semi_shuffled_text", "full", 0) and not design.includes("semi_shuffled_text", 4, 0)
    assert DesignConfig().includes("semi_shuffled_text", 4, 3)


def test_seeds_are_crossed_through_the_first_encoder() -> None:
    design = DesignConfig(seeds=3, crossed_at=(32,))
    assert len(design.replicates(32, draws=5, stochastic=True)) == 15
    assert design.replicates(32, draws=5, stochastic=True, encoder=1) == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1)]


def test_sizes_are_numbers_or_full() -> None:
    config = override(PRESETS["miniature"](), {"integrate.shots": [4, "full"]})
    assert config.integrate.shots == (4, "full")
    for wrong in (["all"], [0], []):
        with pytest.raises(ValueError, match=r"integrate\.shots"):
            override(config, {"integrate.shots": wrong})


def test_a_method_that_is_not_there_has_no_sizes() -> None:
    with pytest.raises(ValueError, match=r"evaluate\.design\.methods_at"):
        override(PRESETS["miniature"](), {"evaluate.design.methods_at": {"magic": [32]}})


def test_many_pairs_get_more_steps() -> None:
    config = FinetuneConfig(steps=60, batch_size=16, min_epochs=2.0)
    assert [config.for_pairs(pairs).steps for pairs in (4, 480, 481, 2080)] == [60, 60, 61, 260]
    assert FinetuneConfig(steps=0, min_epochs=2.0).for_pairs(5000).steps == 0

"""Length buckets: every row once, little padding, few batches."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.buckets import forward_tokens, padding_share, plan_buckets, plan_packed, split_to

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(lengths=LENGTHS, max_padding=st.floats(0.0, 0.6), max_tokens=st.integers(1, 2000))
@settings(max_examples=150, deadline=None)
def test_every_row_once_within_both_bounds(lengths: list[int], max_padding: float, max_tokens: int) -> None:
    buckets = plan_buckets(lengths, max_padding=max_padding, max_tokens=max_tokens)
    assert sorted(row for rows in buckets for row in rows) == list(range(len(lengths)))
    assert padding_share(lengths, buckets) <= max_padding + 1e-9
    for rows in buckets:
        assert len(rows) == 1 or max(lengths[row] for row in rows) * len(rows) <= max_tokens


@given(lengths=LENGTHS, max_tokens=st.integers(1, 2000))
@settings(max_examples=150, deadline=None)
def test_packed_rows_come_once_in_few_even_forwards(lengths: list[int], max_tokens: int) -> None:
    plan = plan_packed(lengths, max_tokens=max_tokens)
    assert sorted(row for rows in plan for row in rows) == list(range(len(lengths)))
    filled = [sum(lengths[row] for row in rows) for rows in plan]
    for rows, tokens in zip(plan, filled, strict=True):
        assert rows and (len(rows) == 1 or tokens <= max_tokens)
    # What is left over runs last; before it no two forwards in a row are small.
    assert all(a + b > max_tokens / 2 for a, b in pairwise(filled[:-1]))
    assert plan == plan_packed(lengths, max_tokens=max_tokens)


def test_packed_forwards_are_alike_in_tokens() -> None:
    plan = plan_packed([10] * 21, max_tokens=100)
    assert [len(rows) for rows in plan] == [7, 7, 7], "not ten, ten and one"


@given(lengths=LENGTHS, count=st.integers(1, 90))
@settings(max_examples=100, deadline=None)
def test_split_reaches_the_wanted_number_and_keeps_the_rows(lengths: list[int], count: int) -> None:
    buckets = plan_buckets(lengths, max_padding=0.05, max_tokens=10**6)
    parts = split_to(buckets, count)
    assert sorted(row for rows in parts for row in rows) == list(range(len(lengths)))
    assert len(parts) == max(len(buckets), min(count, len(lengths)))
    assert all(rows for rows in parts)


@given(lengths=st.lists(st.sampled_from([10, 11, 13, 16, 20, 25]), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_number_of_batches_is_within_one_of_the_fewest(lengths: list[int]) -> None:
    mine = plan_buckets(lengths, max_padding=0.05, max_tokens=10**6)
    assert len(mine) <= _fewest(lengths, 0.05) + 1


def _fewest(lengths: list[int], max_padding: float) -> int:
    distinct = sorted(set(lengths), reverse=True)
    for cuts in range(len(distinct)):
        for chosen in combinations(range(1, len(distinct)), cuts):
            edges = [0, *chosen, len(distinct)]
            groups = [distinct[a:b] for a, b in pairwise(edges)]
            buckets = [[row for row, length in enumerate(lengths) if length in group] for group in groups]
            if padding_share(lengths, buckets) <= max_padding:
                return len(groups)
    raise AssertionError("one batch for each length pads nothing")


def test_equal_lengths_are_one_batch() -> None:
    assert plan_buckets([7] * 5, max_padding=0.0, max_tokens=1000) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("max_padding", [0.0, 0.05])
def test_longest_rows_come_first(max_padding: float) -> None:
    buckets = plan_buckets([3, 30, 3, 90], max_padding=max_padding, max_tokens=1000)
    assert buckets == [[3], [1], [0, 2]]


def test_forwards_are_cut_where_logits_would_leave_the_allocator() -> None:
    """32 MiB of float32 logits on a CPU, at least 512 tokens; a GPU takes large ones."""
    sizes = {vocabulary: forward_tokens("cpu", vocabulary) for vocabulary in (64, 512, 16_384, 128_256)}
    assert sizes == {64: 16_384, 512: 16_384, 16_384: 512, 128_256: 512}
    assert forward_tokens("cuda", 128_256) == 16_384

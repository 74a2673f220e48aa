"""Each reduction does what a plain loop does, and keeps what it promises."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.schema import TokensConfig
from pipeline.encoders import token_reduction
from pipeline.encoders.token_reduction import average_tokens, merge_tokens, reduce_tokens, sample_tokens

Array = npt.NDArray[np.float64]
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
REDUCTIONS = ("average", "sample", "merge")


def drawn(tokens: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(tokens, 5)).astype(np.float32))


def averaged_by_loop(tokens: Array, count: int) -> Array:
    spans = [(i * len(tokens) // count, -(-(i + 1) * len(tokens) // count)) for i in range(count)]
    return np.stack([tokens[start:stop].mean(axis=0) for start, stop in spans])


def sampled_by_loop(tokens: Array, count: int) -> Array:
    places = [round(i * (len(tokens) - 1) / max(count - 1, 1)) for i in range(count)]
    return np.stack([tokens[place] for place in places])


def merged_by_loop(tokens: Array, count: int) -> Array:
    """Groups of original tokens as lists; a group's token is the mean of its members."""
    groups = [[index] for index in range(len(tokens))]
    while len(groups) > count:
        means = [np.mean(tokens[group], axis=0) for group in groups]
        units = [mean / np.linalg.norm(mean) for mean in means]
        offers = []
        for even in range(0, len(groups), 2):
            similarity, odd = max((float(units[even] @ units[odd]), -odd) for odd in range(1, len(groups), 2))
            offers.append((-similarity, even, -odd))
        for _, even, odd in sorted(offers)[: min(len(groups) - count, len(groups) // 2)]:
            groups[odd] = groups[odd] + groups[even]
            groups[even] = []
        groups = sorted((group for group in groups if group), key=min)
    return np.stack([np.mean(tokens[group], axis=0) for group in groups])


@pytest.mark.parametrize(
    ("reduce", "by_loop"), [("average", averaged_by_loop), ("sample", sampled_by_loop), ("merge", merged_by_loop)]
)
@given(sizes=SIZES)
def test_a_reduction_is_that_of_a_plain_loop(reduce: str, by_loop: object, sizes: tuple[int, int, int]) -> None:
    assert callable(by_loop)
    length, count, seed = sizes
    tokens = drawn(length, seed)
    reduced = reduce_tokens(tokens, TokensConfig(count=count, reduce=reduce))  # type: ignore[arg-type]
    expected = tokens.numpy() if length <= count else by_loop(tokens.double().numpy(), count)
    assert reduced.dtype == torch.float32
    np.testing.assert_allclose(reduced.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@given(sizes=SIZES)
def test_the_number_is_kept_and_nothing_leaves_the_hull(reduce: str, sizes: tuple[int, int, int]) -> None:
    length, count, seed = sizes
    tokens = drawn(length, seed)
    config = TokensConfig(count=count, reduce=reduce)  # type: ignore[arg-type]
    reduced = reduce_tokens(tokens, config)
    assert reduced.shape == (min(length, count), 5)
    # Within the hull means within its extent along every direction.
    directions = torch.cat([torch.eye(5), drawn(20, seed + 1)]).T
    along, reduced_along = tokens @ directions, reduced @ directions
    assert (reduced_along <= along.amax(dim=0) + 1e-5).all()
    assert (reduced_along >= along.amin(dim=0) - 1e-5).all()
    assert torch.equal(reduce_tokens(tokens.clone(), config), reduced)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_means_of_equal_spans_keep_the_mean(count: int, span: int, seed: int) -> None:
    tokens = drawn(count * span, seed)
    torch.testing.assert_close(average_tokens(tokens, count).mean(dim=0), tokens.mean(dim=0), atol=1e-5, rtol=0)


@given(SIZES)
def test_merging_keeps_the_mean_by_its_sizes(sizes: tuple[int, int, int]) -> None:
    length, count, seed = sizes
    tokens = drawn(length, seed)
    merged, sizes_R = merge_tokens(tokens, count)
    assert sizes_R.sum() == length
    assert (sizes_R >= 1).all()
    torch.testing.assert_close((merged * sizes_R[:, None]).sum(dim=0) / length, tokens.mean(dim=0), atol=1e-5, rtol=0)


def test_what_is_alike_is_merged_in_the_order_of_its_first_token() -> None:
    a, b, c = torch.eye(3)
    merged, sizes = merge_tokens(torch.stack([a, 3 * a, b, c, 3 * b, 5 * b]), 3)
    assert torch.equal(merged, torch.stack([2 * a, 3 * b, c]))
    assert sizes.tolist() == [2, 3, 1]


def test_of_equal_pairs_the_earlier_is_merged() -> None:
    same = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
    merged, sizes = merge_tokens(same, 3)
    assert merged[:, 0].tolist() == [1.5, 3.0, 4.0]
    assert sizes.tolist() == [2, 1, 1]


def test_sampling_takes_both_ends_and_averaging_shares_the_border() -> None:
    tokens = torch.arange(5.0)[:, None]
    assert sample_tokens(tokens, 3)[:, 0].tolist() == [0, 2, 4]
    assert average_tokens(tokens, 2)[:, 0].tolist() == [1, 3]


def test_blocks_of_the_similarity_matrix_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = drawn(61, 0)
    whole = merge_tokens(tokens, 7)[0]
    monkeypatch.setattr(token_reduction, "_BLOCK", 4)
    torch.testing.assert_close(merge_tokens(tokens, 7)[0], whole)

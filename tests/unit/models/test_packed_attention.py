"""Attention of packed rows is each row's own attention behind the prefix, and so is its gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.models import packed_attention_gpu
from pipeline.models.packed_attention import Runs, packed_rows_attention
from pipeline.models.packed_attention_gpu import padded_rows_attention
from pipeline.models.row_layout import RowLayout

HEADS, KEY_HEADS, WIDTH, SCALE = 4, 2, 8, 0.3
Prefix = tuple[torch.Tensor, torch.Tensor] | None


def layout_of(runs: Runs, prefix: Prefix) -> RowLayout:
    """Of rows on the CPU."""
    lengths = [length for rows, length in runs for _ in range(rows)]
    return RowLayout.of(lengths, 0 if prefix is None else prefix[0].shape[2], torch.device("cpu"))


def _padded(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prefix: Prefix, runs: Runs, scale: float
) -> torch.Tensor:
    """A GPU's way, which a CPU can go too."""
    return padded_rows_attention(q, k, v, prefix, layout_of(runs, prefix), scale)


both_ways = pytest.mark.parametrize("attention", [packed_rows_attention, _padded])


def _alone(
    q_1HNW: torch.Tensor, k_1hNW: torch.Tensor, v_1hNW: torch.Tensor, prefix: list[torch.Tensor], runs: Runs
) -> torch.Tensor:
    """One row at a time, the prefix in front of its keys and values."""
    outputs, start = [], 0
    q_HNW = q_1HNW[0]
    k_HNW, v_HNW, *prefix = (x[0].repeat_interleave(HEADS // KEY_HEADS, dim=0) for x in (k_1hNW, v_1hNW, *prefix))
    for rows, length in runs:
        for _ in range(rows):
            q, k, v = (x[:, start : start + length] for x in (q_HNW, k_HNW, v_HNW))
            behind = prefix[0].shape[1]
            seen = torch.ones(length, behind + length, dtype=torch.bool).tril(behind)
            k, v = torch.cat([prefix[0], k], dim=1), torch.cat([prefix[1], v], dim=1)
            outputs.append(functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=SCALE))
            start += length
    return torch.cat(outputs, dim=1).transpose(0, 1)


def _states(runs: Runs, prefix: int, seed: int, dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(rows * length for rows, length in runs)

    def made(heads: int, length: int) -> torch.Tensor:
        # Scores of some size: one part of a softmax then outweighs the other.
        return (3 * torch.randn(1, heads, length, WIDTH, generator=generator)).to(dtype)

    rows = [made(heads, tokens).requires_grad_() for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    return rows, [made(KEY_HEADS, prefix) for _ in range(2)]


RUNS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 70)), min_size=1, max_size=4).map(tuple)


def _with_gradients(output_NHW: torch.Tensor, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    # Any function of the output will do, if its gradient differs from token to token.
    weights = torch.linspace(-1, 1, output_NHW.numel(), dtype=output_NHW.dtype).view_as(output_NHW)
    return [output_NHW.detach(), *torch.autograd.grad((output_NHW * weights).sum(), rows)]


@both_ways
@given(runs=RUNS, prefix=st.integers(0, 40), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_each_row_attends_to_itself_and_the_prefix(attention: Any, runs: Runs, prefix: int, seed: int) -> None:
    rows, front = _states(runs, prefix, seed, torch.float32)
    behind = (front[0], front[1]) if prefix else None
    packed = _with_gradients(attention(*rows, behind, runs, SCALE), rows)
    exact_rows = [x.detach().double().requires_grad_() for x in rows]
    exact = _with_gradients(_alone(*exact_rows, [x.double() for x in front], runs), exact_rows)
    for one, other in zip(packed, exact, strict=True):
        # exp(score - log-sum) is off by the rounding of scores, which reach 60 here: some 4e-6 of the largest term.
        torch.testing.assert_close(one.double(), other, atol=3e-5 * max(1.0, float(other.abs().max())), rtol=0)


@both_ways
def test_a_row_does_not_see_its_neighbours(attention: Any) -> None:
    runs = ((2, 3), (1, 5))
    rows, front = _states(runs, 4, 0, torch.float32)
    attention(*rows, (front[0], front[1]), runs, SCALE)[3:6].sum().backward()
    for x in rows:
        assert x.grad is not None
        assert x.grad[:, :, 3:6].abs().max() > 0
        assert not x.grad[:, :, :3].any() and not x.grad[:, :, 6:].any()


@both_ways
@pytest.mark.parametrize("prefix", [0, 7])
def test_bfloat16_is_float32_up_to_its_rounding(attention: Any, prefix: int) -> None:
    runs = ((2, 3), (1, 9))
    rows, front = _states(runs, prefix, 1, torch.bfloat16)
    output = attention(*rows, (front[0], front[1]) if prefix else None, runs, SCALE)
    exact = _alone(*(x.detach().float() for x in rows), [x.float() for x in front], runs)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, atol=0.05, rtol=0.05)


@given(runs=RUNS, prefix=st.integers(0, 9))
def test_tokens_are_where_the_layout_says(runs: Runs, prefix: int) -> None:
    layout = RowLayout.of([length for rows, length in runs for _ in range(rows)], prefix, torch.device("cpu"))
    ends, ends_behind = layout.starts.tolist()
    tokens_N = torch.arange(ends[-1])
    behind_M = (-1 - layout.front_M).index_copy(0, layout.behind_N, tokens_N)
    padded = layout.pad(tokens_N.view(-1, 1, 1) + 1)[:, 0, :, 0]
    assert torch.equal(layout.unpad(layout.pad(tokens_N.view(-1, 1, 1)))[:, 0, 0], tokens_N)
    for row in range(layout.rows):
        own = tokens_N[ends[row] : ends[row + 1]]
        expected = torch.cat([-torch.arange(prefix) - 1, own])
        assert torch.equal(behind_M[ends_behind[row] : ends_behind[row + 1]], expected)
        assert padded[row].tolist() == [*(own + 1).tolist(), *[0] * (layout.longest - len(own))]
        assert torch.equal(layout.positions_N[own], torch.arange(len(own)) + prefix)


@pytest.mark.parametrize(
    ("dtype", "width", "flash", "expected"),
    [
        (torch.bfloat16, 64, True, "flash"),
        (torch.float16, 192, True, "flash"),
        (torch.float32, 64, True, "padded"),
        (torch.bfloat16, 256, True, "padded"),
        (torch.bfloat16, 20, True, "padded"),
        (torch.bfloat16, 64, False, "padded"),
    ],
)
def test_flash_attention_runs_where_its_kernels_do(
    dtype: torch.dtype, width: int, flash: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {"flash": "flash_rows_attention", "padded": "padded_rows_attention"}
    for way, name in ways.items():
        monkeypatch.setattr(packed_attention_gpu, name, lambda *_, way=way: way)
    layout = replace(RowLayout.of([3, 2], 0, torch.device("cpu")), flash=flash)
    x = torch.zeros(1, 2, 5, width, dtype=dtype)
    assert packed_attention_gpu.gpu_rows_attention(x, x, x, None, layout, 1.0) == expected

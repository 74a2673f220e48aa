"""Attention of rows that lie one behind another and all see one prefix, on a CPU.

In: queries, keys and values of all rows, keys and values of the prefix.  Out: what attention gives each row behind the
prefix, and its gradient.

Each row has to attend to itself alone, but all rows attend to the same prefix: that part is one matrix product over all
tokens instead of a copy of the prefix in front of every row. Two parts of a softmax are joined by their logarithmic
sums, and a part's gradient follows from the joint ones (FlashAttention-2, Dao 2023, sections 2.3 and 3.1, where the
parts are blocks of one row's keys): the operators that torch's own attention runs on a CPU take them as arguments.

Shape suffixes: N tokens of all rows, R rows of one length, L their length, P prefix, H and h heads, W head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import repeat_kv

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

Runs = Sequence[tuple[int, int]]
"""(rows R, length L) of each run of rows of one length, in order."""


def packed_rows_attention(
    q_1HNW: Tensor, k_1hNW: Tensor, v_1hNW: Tensor, prefix: tuple[Tensor, Tensor] | None, runs: Runs, scale: float
) -> Tensor:
    """Causal attention within each row and to the whole of the prefix's keys and values `[1, h, P, W]`; `[N, H, W]`.

    Differentiable in the rows, not in the prefix. Keys and values may have fewer heads h than the H of the queries.
    """
    groups = q_1HNW.shape[1] // k_1hNW.shape[1]
    front = None if prefix is None else tuple(repeat_kv(x, groups)[0] for x in prefix)
    rows = q_1HNW[0], repeat_kv(k_1hNW, groups)[0], repeat_kv(v_1hNW, groups)[0]
    result: Tensor = _PackedRows.apply(*rows, front, runs, scale)  # type: ignore[no-untyped-call]
    return result


class _PackedRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_HNW: Tensor,
        k_HNW: Tensor,
        v_HNW: Tensor,
        prefix: tuple[Tensor, Tensor] | None,
        runs: Runs,
        scale: float,
    ) -> Tensor:
        heads, tokens, width = q_HNW.shape
        out_NHW = q_HNW.new_empty(tokens, heads, width)
        log_sum_HN = torch.empty(heads, tokens)
        for q, k, v, out, log_sum in _by_run(runs, (q_HNW, k_HNW, v_HNW), out_NHW, log_sum_HN):
            part, part_log_sum = _attend(q, k, v, 0.0, True, scale=scale)
            out.copy_(part)
            log_sum.copy_(part_log_sum)
        ctx.weights_HNP = None
        if prefix is not None:
            scores_HNP = (q_HNW @ prefix[0].mT).float() * scale
            joint_HN = torch.logaddexp(log_sum_HN, scores_HNP.logsumexp(dim=-1))
            ctx.weights_HNP = (scores_HNP - joint_HN.unsqueeze(-1)).exp_().to(q_HNW.dtype)
            out_NHW *= (log_sum_HN - joint_HN).exp().T.unsqueeze(-1)
            out_NHW += (ctx.weights_HNP @ prefix[1]).transpose(0, 1)
            log_sum_HN = joint_HN
        ctx.save_for_backward(q_HNW, k_HNW, v_HNW, out_NHW, log_sum_HN)
        ctx.prefix, ctx.runs, ctx.scale = prefix, runs, scale
        return out_NHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NHW: Tensor) -> tuple[Tensor | None, ...]:
        q_HNW, k_HNW, v_HNW, out_NHW, log_sum_HN = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in (q_HNW, k_HNW, v_HNW)]
        inputs = _by_run(ctx.runs, (q_HNW, k_HNW, v_HNW), out_NHW, log_sum_HN)
        outputs = _by_run(ctx.runs, gradients, gradient_NHW, log_sum_HN)
        for (q, k, v, out, log_sum), (*into, gradient, _) in zip(inputs, outputs, strict=True):
            parts = _attend_backward(gradient, q, k, v, out, log_sum, 0.0, True, scale=ctx.scale)
            for target, part in zip(into, parts, strict=True):
                target.copy_(part)
        if ctx.prefix is not None:
            by_head_HNW = gradient_NHW.transpose(0, 1)
            own_HN1 = (gradient_NHW * out_NHW).sum(dim=-1).T.unsqueeze(-1)
            scores_HNP = ctx.weights_HNP * (by_head_HNW @ ctx.prefix[1].mT - own_HN1)
            gradients[0] += scores_HNP @ ctx.prefix[0] * ctx.scale
        return (*gradients, None, None, None)


def _by_run(runs: Runs, by_head: Sequence[Tensor], by_token_NHW: Tensor, log_sum_HN: Tensor) -> Iterator[list[Tensor]]:
    """Views of each run's rows, as torch's attention has them: `[R, H, L, W]`, and `[R, H, L]` of the last."""
    start = 0
    for rows, length in runs:
        end = start + rows * length
        shape = (rows, length)
        yield [
            *(x[:, start:end].unflatten(1, shape).transpose(0, 1) for x in by_head),
            by_token_NHW[start:end].unflatten(0, shape).transpose(1, 2),
            log_sum_HN[:, start:end].unflatten(1, shape).transpose(0, 1),
        ]
        start = end

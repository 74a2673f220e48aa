"""Losses of many rows in several forwards, each followed by its backward pass at once.

In: rows, and a function that gives the losses of some of them.  Out: all losses, whose gradient is known before anybody
asks for it. Memory is that of one forward, however many rows there are.

Shape suffixes: B rows, S soft tokens, D width; b rows of one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.profiler import record_function

from pipeline.transfer import to_device

Losses = Callable[[Tensor, list[int]], Tensor]
"""Soft tokens `[b, S, D]` and the rows they belong to -> losses `[b]`."""


def losses_with_gradient(soft_BSD: Tensor, buckets: Sequence[list[int]], losses: Losses) -> Tensor:
    """Losses `[B]` of all rows; each row's may depend on its own soft tokens alone."""
    result: Tensor = _Losses.apply(soft_BSD, buckets, losses)  # type: ignore[no-untyped-call]
    return result


class _Losses(torch.autograd.Function):
    """A loss depends on its own row alone, so the gradient of any weighted sum is the rows' own gradients, weighted."""

    @staticmethod
    def forward(ctx: Any, soft_BSD: Tensor, buckets: Sequence[list[int]], losses: Losses) -> Tensor:
        losses_B = soft_BSD.new_empty(len(soft_BSD), dtype=torch.float32)
        gradient_BSD = torch.empty_like(soft_BSD)
        for rows in buckets:
            index_b = to_device(torch.tensor(rows), soft_BSD.device)
            with torch.enable_grad():
                part_bSD = soft_BSD[index_b].detach().requires_grad_()
                losses_b = losses(part_bSD, rows)
                with record_function("llm backward"):
                    (gradient_BSD[index_b],) = torch.autograd.grad(losses_b.sum(), part_bSD)
            losses_B[index_b] = losses_b.detach()
        ctx.save_for_backward(gradient_BSD)
        return losses_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights_B: Tensor) -> tuple[Tensor, None, None]:
        (gradient_BSD,) = ctx.saved_tensors
        return gradient_BSD * weights_B[:, None, None].to(gradient_BSD.dtype), None, None

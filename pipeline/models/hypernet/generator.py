"""The linear generator of an adapter, whose gradient workers share by its factors.

In: one vector an episode `[N, I]`.  Out: an adapter's numbers `[N, O]`.

A generator holds most of a hypernetwork's weights (I x O), but the gradient of N episodes has rank N: it is the product
of the inputs and of the outputs' gradients. Between workers these travel, N (I + O) numbers instead of I x O, and each
worker multiplies them. With the paper's sizes and 40 episodes that is a twentieth.

Shape suffixes: N episodes of this worker, M of all workers, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Generator(nn.Linear):
    """A linear layer that can average its gradients over workers by itself."""

    shares_gradients: bool = False
    """Whether the backward pass leaves gradients that are averaged over all workers; an engine that sets it must not
    average them again. All workers must then run the same number of rows, and backward passes in the same order."""

    def forward(self, x_NI: Tensor) -> Tensor:
        """Outputs `[N, O]`."""
        if not (self.shares_gradients and torch.is_grad_enabled()):
            return super().forward(x_NI)
        result: Tensor = _SharedLinear.apply(x_NI, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result


class _SharedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return functional.linear(x_NI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_NI, weight_OI = ctx.saved_tensors
        workers = torch.distributed.get_world_size()
        outputs, inputs = weight_OI.shape
        if workers * len(x_NI) * (inputs + outputs) < inputs * outputs:
            both_MC = _gather_rows(torch.cat([x_NI, gradient_NO], dim=1))
            x_MI, gradient_MO = both_MC.split([inputs, outputs], dim=1)
            weight, bias = gradient_MO.T @ x_MI, gradient_MO.sum(dim=0)
        else:
            # So many rows that the product is smaller than its factors.
            weight, bias = gradient_NO.T @ x_NI, gradient_NO.sum(dim=0)
            for gradient in (weight, bias):
                torch.distributed.all_reduce(gradient)
        return gradient_NO @ weight_OI, weight.div_(workers), bias.div_(workers)


def _gather_rows(rows_NC: Tensor) -> Tensor:
    """The rows of all workers, in the order of their ranks."""
    gathered = [torch.empty_like(rows_NC) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, rows_NC.contiguous())
    return torch.cat(gathered)

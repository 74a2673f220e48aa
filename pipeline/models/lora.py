"""Low-rank updates of a linear layer: one formula, applied or merged.

In: a layer's weight and bias and a `LinearAdapter` (METHOD section 1).
Out: `y = keep_base * W x + c + scale * (x A) B + b`, or the single weight and bias that compute the same.

Shape suffixes: N episodes, B rows, I layer input, O layer output, R rank; `...` stands for optional episode axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearAdapter:
    """A generated update of one linear layer."""

    a_IR: Tensor
    """Down factor A, `[..., I, R]`."""
    b_RO: Tensor
    """Up factor B, `[..., R, O]`."""
    bias_O: Tensor | None = None
    """Generated bias b, `[..., O]`."""
    scale: float = 1.0
    """alpha / R, applied once to the product (the reference multiplies A, B and b each)."""
    keep_base: bool = True
    """False where the update replaces the layer, so that the input may have another width than the layer's."""

    def __post_init__(self) -> None:
        if self.a_IR.shape[-1] != self.b_RO.shape[-2]:
            raise ValueError(f"adapter rank differs: A is {tuple(self.a_IR.shape)}, B is {tuple(self.b_RO.shape)}")

    @property
    def rank(self) -> int:
        """R."""
        return int(self.a_IR.shape[-1])

    @property
    def input_width(self) -> int:
        """I."""
        return int(self.a_IR.shape[-2])

    @property
    def size(self) -> int:
        """Numbers that it holds."""
        return self.a_IR.numel() + self.b_RO.numel() + (0 if self.bias_O is None else self.bias_O.numel())

    def episode(self, index: int) -> LinearAdapter:
        """The adapter of one episode of a batch."""
        bias = None if self.bias_O is None else self.bias_O[index]
        return LinearAdapter(
            a_IR=self.a_IR[index], b_RO=self.b_RO[index], bias_O=bias, scale=self.scale, keep_base=self.keep_base
        )


def adapted_linear(x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, adapter: LinearAdapter | None) -> Tensor:
    """Apply a linear layer under an adapter without forming its merged weight.

    `x_BI` is `[..., B, I]`; the adapter's leading axes broadcast against it, so a batch of episodes costs two
    batched products and no loop. Returns `[..., B, O]`.
    """
    if adapter is None:
        return functional.linear(x_BI, weight_OI, bias_O)
    update = adapter.scale * ((x_BI @ adapter.a_IR) @ adapter.b_RO)
    if adapter.keep_base:
        update = update + functional.linear(x_BI, weight_OI)
    if bias_O is not None:
        update = update + bias_O
    return update if adapter.bias_O is None else update + adapter.bias_O.unsqueeze(-2)


def merge_linear(
    weight_OI: Tensor, bias_O: Tensor | None, adapter: LinearAdapter | None
) -> tuple[Tensor, Tensor | None]:
    """Weight `[O, I]` and bias `[O]` of the plain layer that computes the same as `adapted_linear`."""
    if adapter is None:
        return weight_OI, bias_O
    if adapter.a_IR.dim() != 2:
        raise ValueError(f"merge one episode's adapter at a time, got A of shape {tuple(adapter.a_IR.shape)}")
    merged = adapter.scale * (adapter.a_IR @ adapter.b_RO).T
    if adapter.keep_base:
        merged = merged + weight_OI
    if adapter.bias_O is None:
        return merged, bias_O
    return merged, adapter.bias_O if bias_O is None else bias_O + adapter.bias_O


def average_adapters(adapters: Sequence[LinearAdapter]) -> LinearAdapter:
    """The adapter whose update is the mean of the given updates (METHOD section 2.3: several chunks of support).

    Averaging A and B separately would average neither product, so the factors are stacked: rank adds up.
    """
    first = adapters[0]
    if any((item.scale, item.keep_base) != (first.scale, first.keep_base) for item in adapters):
        raise ValueError("adapters to average must share scale and keep_base")
    biases = [item.bias_O for item in adapters if item.bias_O is not None]
    if len(biases) not in (0, len(adapters)):
        raise ValueError("either all or none of the adapters to average must carry a bias")
    return LinearAdapter(
        a_IR=torch.cat([item.a_IR for item in adapters], dim=-1) / len(adapters),
        b_RO=torch.cat([item.b_RO for item in adapters], dim=-2),
        bias_O=torch.stack(biases).mean(dim=0) if biases else None,
        scale=first.scale,
        keep_base=first.keep_base,
    )

"""One low-rank formula: functional and merged forms agree, the scale enters once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.lora import LinearAdapter, adapted_linear, average_adapters, merge_linear
from pipeline.models.projector import Projector


def _adapter(i: int, r: int, o: int, *, bias: bool = True, keep_base: bool = True, scale: float = 0.7) -> LinearAdapter:
    return LinearAdapter(
        a_IR=torch.randn(i, r),
        b_RO=torch.randn(r, o),
        bias_O=torch.randn(o) if bias else None,
        scale=scale,
        keep_base=keep_base,
    )


@given(
    i=st.integers(1, 9),
    o=st.integers(1, 9),
    r=st.integers(0, 5),
    bias=st.booleans(),
    layer_bias=st.booleans(),
    keep_base=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_merged_layer_computes_the_adapted_one(
    i: int, o: int, r: int, bias: bool, layer_bias: bool, keep_base: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    weight, layer = torch.randn(o, i), torch.randn(o) if layer_bias else None
    adapter = _adapter(i, r, o, bias=bias, keep_base=keep_base)
    x = torch.randn(4, i)
    merged_weight, merged_bias = merge_linear(weight, layer, adapter)
    expected = torch.nn.functional.linear(x, merged_weight, merged_bias)
    torch.testing.assert_close(adapted_linear(x, weight, layer, adapter), expected, atol=1e-5, rtol=1e-5)


def test_scale_enters_the_product_once_and_not_the_bias() -> None:
    torch.manual_seed(0)
    weight, adapter = torch.zeros(3, 2), _adapter(2, 2, 3)
    doubled = LinearAdapter(a_IR=adapter.a_IR, b_RO=adapter.b_RO, bias_O=adapter.bias_O, scale=2 * adapter.scale)
    x = torch.randn(5, 2)
    assert adapter.bias_O is not None
    low_rank = adapted_linear(x, weight, None, adapter) - adapter.bias_O
    torch.testing.assert_close(adapted_linear(x, weight, None, doubled) - adapter.bias_O, 2 * low_rank)


def test_average_is_the_mean_of_the_updates() -> None:
    torch.manual_seed(1)
    weight, bias = torch.randn(4, 6), torch.randn(4)
    adapters = [_adapter(6, 2, 4) for _ in range(3)]
    merged = [merge_linear(weight, bias, adapter) for adapter in adapters]
    mean_weight = torch.stack([weight for weight, _ in merged]).mean(dim=0)
    got_weight, got_bias = merge_linear(weight, bias, average_adapters(adapters))
    torch.testing.assert_close(got_weight, mean_weight)
    torch.testing.assert_close(got_bias, torch.stack([b for _, b in merged if b is not None]).mean(dim=0))


def test_average_refuses_adapters_of_another_kind() -> None:
    with pytest.raises(ValueError, match="must share scale and keep_base"):
        average_adapters([_adapter(2, 1, 2), _adapter(2, 1, 2, scale=0.1)])


def test_factors_of_different_rank_are_refused() -> None:
    with pytest.raises(ValueError, match="adapter rank differs"):
        LinearAdapter(a_IR=torch.zeros(3, 2), b_RO=torch.zeros(1, 3))


def test_projector_applies_every_layer_and_wants_one_adapter_each() -> None:
    torch.manual_seed(2)
    projector = Projector(5, 4, hidden_width=6, soft_tokens=3, dropout=0.0).eval()
    first, second = projector.linear_layers
    x = torch.randn(7, 5)
    expected = second(torch.nn.functional.gelu(first(x), approximate="tanh")).view(7, 3, 4)
    torch.testing.assert_close(projector(x), expected)
    with pytest.raises(ValueError, match="shorter"):
        projector(x, [_adapter(5, 2, 6)])

"""Controls of SEMI, and the projectors that baselines train in its place."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adaptation.captioner import ProjectorCaptioner
from pipeline.adaptation.finetune import finetune
from pipeline.adaptation.methods.semi import OtherSupport, of_width, random_embeddings
from pipeline.adaptation.support import SupportSet
from pipeline.config.schema import FinetuneConfig, HypernetKind, MethodName
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.lora import LinearAdapter, average_adapters
from pipeline.models.projector import Projector
from pipeline.models.projector_variants import LinearProjector, LoraProjector, lora_rank
from tests.unit.adaptation.worlds import make_support, make_world, training_supports


def test_random_embeddings_have_unit_norm_and_leave_the_texts_alone() -> None:
    support = make_support()
    control = random_embeddings(support, 1)
    torch.testing.assert_close(control.embeddings_KE.norm(dim=-1), torch.ones(5))
    assert torch.equal(control.texts_KW, support.texts_KW) and control.captions == support.captions
    assert not torch.allclose(control.embeddings_KE, random_embeddings(support, 2).embeddings_KE)
    assert torch.equal(control.embeddings_KE, random_embeddings(support, 1).embeddings_KE)


@pytest.mark.parametrize("seed", range(5))
def test_another_support_is_one_of_this_width_where_there_is_one(seed: int) -> None:
    other = OtherSupport(training_supports=training_supports)(make_support(6), seed)
    assert other.modality == "image" and other.shots == 5
    assert torch.equal(other.embeddings_KE, training_supports(5, seed)[0].embeddings_KE)


def test_another_support_of_no_fitting_width_is_brought_to_it() -> None:
    drawn = [OtherSupport(training_supports=training_supports)(make_support(9), seed) for seed in range(8)]
    assert {other.modality for other in drawn} == {"image", "audio"}
    for seed, other in enumerate(drawn):
        assert other.embeddings_KE.shape == (5, 9)
        source = next(one for one in training_supports(5, seed) if one.modality == other.modality)
        # A lift is an isometry: similarities stay.
        torch.testing.assert_close(
            other.embeddings_KE @ other.embeddings_KE.T,
            source.embeddings_KE @ source.embeddings_KE.T,
            atol=1e-5,
            rtol=0,
        )


@pytest.mark.parametrize("name", ["semi_other_support", "average_adapter"])
def test_controls_need_another_modality(llm: FrozenLLM, name: MethodName) -> None:
    def itself(shots: int, seed: int) -> list[SupportSet]:
        return [make_support(6, modality="radar")]

    world = make_world(llm)
    method = world.method(name, training=itself)
    with pytest.raises(ValueError, match=f"{name} needs a dataset of role 'train' besides 'radar'"):
        method.fit(make_support(6), 0)


@pytest.mark.parametrize("kind", get_args(HypernetKind))
def test_the_average_adapter_is_the_mean_update(llm: FrozenLLM, kind: HypernetKind) -> None:
    """Merged weights are averaged; averaging the adapters and merging once gives the same."""
    world, width = make_world(llm, "attention" if kind == "attention" else "equivariant"), 4
    captioner = world.method("average_adapter").fit(make_support(width), 2)
    assert isinstance(captioner, ProjectorCaptioner)
    generated = [
        world.semi.generate(of_width(other, width, 2).batch(), chunk=128, width_seed=2)[0]
        for other in training_supports(5, 2)
    ]
    mean: list[LinearAdapter | None] = []
    for layers in zip(*generated, strict=True):
        present = [layer for layer in layers if layer is not None]
        mean.append(average_adapters(present) if present else None)
    x = torch.randn(3, width)
    with torch.no_grad():
        torch.testing.assert_close(captioner.projector(x), world.semi.projector(x, mean), atol=1e-5, rtol=1e-5)


def _base() -> Projector:
    torch.manual_seed(0)
    return Projector(6, 16, hidden_width=8, soft_tokens=2, dropout=0.0).eval()


def test_lora_starts_at_its_base_and_merges_to_what_it_computes(llm: FrozenLLM) -> None:
    base, support = _base(), make_support()
    start = LoraProjector(base, 3)
    x = support.embeddings_KE
    with torch.no_grad():
        torch.testing.assert_close(start(x), base(x))
    tuned = finetune(start, llm, support, FinetuneConfig(steps=5, learning_rate=1e-1), seed=0).projector
    assert isinstance(tuned, LoraProjector)
    with torch.no_grad():
        torch.testing.assert_close(tuned(x), tuned.plain()(x), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(tuned(x), base(x), atol=1e-2)
    for ours, theirs in zip(tuned.linear_layers, base.linear_layers, strict=True):
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)
        assert not ours.weight.requires_grad
    for merged, theirs in zip(tuned.plain().linear_layers, base.linear_layers, strict=True):
        assert torch.linalg.matrix_rank(merged.weight.detach() - theirs.weight.detach(), atol=1e-5) <= 3


def test_lora_keeps_its_shape_and_its_own_adapter() -> None:
    lora = LoraProjector(_base(), 2)
    assert torch.equal(lora.like().linear_layers[0].weight, lora.linear_layers[0].weight)
    with pytest.raises(ValueError, match="keeps its input width 6, got 7"):
        lora.like(input_width=7)
    with pytest.raises(ValueError, match="has an adapter of its own"):
        lora(torch.randn(2, 6), [None, None])


@given(parameters=st.integers(0, 10_000))
def test_lora_rank_is_the_nearest_to_the_wanted_number(parameters: int) -> None:
    base = _base()
    per_rank = (6 + 8) + (8 + 32)
    rank = lora_rank(base, parameters)
    assert 1 <= rank <= 8
    if 1 < rank < 8:
        assert abs(rank * per_rank - parameters) <= per_rank / 2
    assert sum(layer.size for layer in LoraProjector(base, rank).adapter) == rank * per_rank


def test_the_linear_map_is_one_layer_of_any_number_of_soft_tokens(llm: FrozenLLM) -> None:
    torch.manual_seed(0)
    linear = LinearProjector(6, llm.width, soft_tokens=1)
    x, y = torch.randn(2, 3, 6).unbind(0)
    with torch.no_grad():
        bias = linear(torch.zeros(3, 6))
        torch.testing.assert_close(linear(x + y), linear(x) + linear(y) - bias)
        assert linear(x).shape == (3, 1, llm.width)
    assert linear.like(input_width=4).layer_shapes == [(4, llm.width)]
    tuned = finetune(linear, llm, make_support(), FinetuneConfig(steps=2), seed=0).projector
    assert isinstance(tuned, LinearProjector)

"""The assembly against the traps of the published code (METHOD section 3)."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from pipeline.config.schema import AdaptedLayers, HypernetConfig, HypernetKind, WidthMapKind
from pipeline.episodes.isometry import sample_isometry
from pipeline.episodes.width import fit_width_map
from pipeline.models.hypernet import AttentionHypernet, build_hypernet
from pipeline.models.hypernet.attention import SelfAttention
from pipeline.models.projector import Projector
from pipeline.models.semi import Semi, fold_width_map
from tests.unit.models.conftest import WIDTH, episode_batch, make_semi, one_support


def test_functional_path_equals_merged_projector(semi: Semi) -> None:
    width = WIDTH if semi.hypernet.common_width else 40
    batch = episode_batch(width)
    with torch.no_grad():
        functional = semi.eval()(batch)
    for episode in range(2):
        merged = semi.integrate(one_support(batch, episode), chunk=128).eval()
        assert merged.input_width == width
        torch.testing.assert_close(merged(batch.queries_NBE[episode]), functional[episode], atol=1e-5, rtol=0)


def test_every_trainable_parameter_gets_a_gradient(semi: Semi) -> None:
    semi.train()(episode_batch(WIDTH)).square().sum().backward()
    for name, parameter in semi.hypernet.named_parameters():
        # A key bias shifts all attention logits of a query alike: its gradient is zero in exact arithmetic.
        if name == "attention.k.bias":
            continue
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-7, name
    assert all(parameter.grad is None for parameter in semi.projector.parameters())


@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_projector_has_no_dropout_from_the_start(trained: bool) -> None:
    """The training loop takes the module as it was built; nobody calls `train` before the first step."""
    projector = Projector(WIDTH, 24, soft_tokens=1, dropout=0.5)
    config = HypernetConfig(kind="attention", width=WIDTH, rank=2)
    semi, batch = Semi(projector, build_hypernet(config, projector), train_projector=trained), episode_batch(WIDTH)
    assert torch.equal(semi(batch), semi(batch)) != trained
    assert semi.training and semi.hypernet.training


@pytest.mark.parametrize("kind", ["attention", "transformer"])
@pytest.mark.parametrize(("adapted_layers", "layers"), [("all", 2), ("first", 1)])
def test_each_adapted_layer_has_a_generator_and_a_prefix(
    kind: HypernetKind, adapted_layers: AdaptedLayers, layers: int
) -> None:
    semi = make_semi(kind, adapted_layers=adapted_layers)
    semi(episode_batch(WIDTH)).square().sum().backward()
    assert isinstance(semi.hypernet, AttentionHypernet)
    assert len(semi.projector.linear_layers) == 2
    assert len(semi.hypernet.generators) == len(semi.hypernet.prefix_tokens) == layers
    for generator in semi.hypernet.generators:
        assert generator.weight.grad.norm() > 1e-6


@pytest.mark.parametrize("kind", get_args(HypernetKind))
def test_with_the_first_layer_adapted_the_second_stays_as_it_is(kind: HypernetKind) -> None:
    batch = episode_batch(WIDTH)
    adapted: AdaptedLayers
    for adapted, second_changes in (("first", False), ("all", True)):
        semi = make_semi(kind, adapted_layers=adapted)
        first, second = semi.hypernet(batch.support, semi.projector)
        assert first is not None and (second is not None) == second_changes
        merged = semi.integrate(one_support(batch, 0), chunk=128).linear_layers[1]
        own = semi.projector.linear_layers[1]
        assert torch.equal(merged.bias, own.bias) != second_changes
        assert torch.equal(merged.weight, own.weight) != (second_changes and kind != "equivariant")


def test_rank_is_bound_by_the_adapted_layers_alone() -> None:
    projector = Projector(WIDTH, 8, hidden_width=20, soft_tokens=1, dropout=0.0)
    build_hypernet(HypernetConfig(kind="attention", width=WIDTH, rank=12, adapted_layers="first"), projector)
    with pytest.raises(ValueError, match=r"hypernet\.rank=12 is above the narrowest width .* adapted layers \(8\)"):
        build_hypernet(HypernetConfig(kind="attention", width=WIDTH, rank=12), projector)


def test_episodes_of_a_batch_do_not_see_each_other(semi: Semi) -> None:
    batch = episode_batch(WIDTH)
    other = episode_batch(WIDTH, seed=1)
    changed = type(batch)(
        support=type(batch.support)(
            embeddings_NKE=torch.stack([batch.support.embeddings_NKE[0], other.support.embeddings_NKE[1]]),
            texts_NKW=torch.stack([batch.support.texts_NKW[0], other.support.texts_NKW[1]]),
            instructions_NW=batch.support.instructions_NW,
        ),
        queries_NBE=batch.queries_NBE,
        captions=batch.captions,
    )
    with torch.no_grad():
        before, after = semi.eval()(batch), semi(changed)
    torch.testing.assert_close(before[0], after[0], atol=1e-5, rtol=0)
    assert (before[1] - after[1]).abs().max() > 1e-3


def test_without_layers_penalty_and_gain_are_all_that_is_learned() -> None:
    torch.manual_seed(0)
    projector = Projector(WIDTH, 24, soft_tokens=1, dropout=0.0)
    config = HypernetConfig(kind="equivariant", width=32, rank=8, alpha=8.0, layers=0)
    hypernet = build_hypernet(config, projector)
    Semi(projector, hypernet)(episode_batch(40)).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in hypernet.named_parameters()}
    assert set(gradients) == {"log_penalty", "log_gain"}
    assert all(gradient is not None and gradient.abs() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("width", [7, WIDTH, 40])
def test_equivariant_hypernetwork_ignores_rotations(width: int) -> None:
    semi, batch = make_semi("equivariant").eval(), episode_batch(width)
    rotate = sample_isometry("haar", width, seed=5)
    rotated = type(batch)(
        support=type(batch.support)(
            embeddings_NKE=rotate(batch.support.embeddings_NKE),
            texts_NKW=batch.support.texts_NKW,
            instructions_NW=batch.support.instructions_NW,
        ),
        queries_NBE=rotate(batch.queries_NBE),
        captions=batch.captions,
    )
    with torch.no_grad():
        torch.testing.assert_close(semi(rotated), semi(batch), atol=2e-5, rtol=1e-5)


def test_equivariant_hypernetwork_starts_as_ridge_regression() -> None:
    torch.manual_seed(0)
    projector = Projector(WIDTH, 24, hidden_width=20, soft_tokens=3, dropout=0.0).eval()
    config = HypernetConfig(kind="equivariant", width=32, rank=64, alpha=8.0, heads=4, layers=2)
    hypernet = build_hypernet(config, projector)
    batch = episode_batch(40, episodes=1)
    x, t = batch.support.embeddings_NKE[0], batch.support.texts_NKW[0]
    centred, target = x - x.mean(0), t - t.mean(0)
    gram = centred @ centred.T
    penalty = torch.linalg.eigvalsh(gram).mean()
    weights = centred.T @ torch.linalg.solve(gram + penalty * torch.eye(len(x)), target)
    predicted = t.mean(0) + (batch.queries_NBE[0] - x.mean(0)) @ weights
    with torch.no_grad():
        torch.testing.assert_close(Semi(projector, hypernet)(batch)[0], projector(predicted), atol=1e-5, rtol=1e-4)


def test_support_with_duplicated_pairs_stays_finite() -> None:
    semi, batch = make_semi("equivariant").eval(), episode_batch(40)
    repeated = one_support(batch, 0)
    same = type(repeated)(
        embeddings_NKE=repeated.embeddings_NKE[:, :1].expand(-1, 10, -1),
        texts_NKW=repeated.texts_NKW[:, :1].expand(-1, 10, -1),
        instructions_NW=repeated.instructions_NW,
    )
    assert all(torch.isfinite(parameter).all() for parameter in semi.integrate(same, chunk=128).parameters())


@pytest.mark.parametrize("kind", get_args(WidthMapKind))
@pytest.mark.parametrize("hypernet", ["attention", "transformer"])
@pytest.mark.parametrize("width", [7, 40])
def test_other_widths_go_through_a_folded_width_map(width: int, hypernet: HypernetKind, kind: WidthMapKind) -> None:
    semi, batch = make_semi(hypernet, width_map=kind).eval(), episode_batch(width, episodes=1)
    support = one_support(batch, 0)
    width_map = fit_width_map(support.embeddings_NKE[0], WIDTH, kind=kind, seed=3)
    mapped = type(support)(
        embeddings_NKE=width_map(support.embeddings_NKE),
        texts_NKW=support.texts_NKW,
        instructions_NW=support.instructions_NW,
    )
    inner = semi.integrate(mapped, chunk=128).eval()
    queries = batch.queries_NBE[0]
    whole = semi.integrate(support, chunk=128, width_seed=3).eval()
    assert whole.input_width == width
    torch.testing.assert_close(whole(queries), inner(width_map(queries)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fold_width_map(inner, width_map).eval()(queries), whole(queries))
    assert whole.width_map == kind


def test_a_padded_encoder_has_the_first_layer_cut_and_a_narrowed_one_has_it_spread() -> None:
    projector = Projector(WIDTH, 24, soft_tokens=1, dropout=0.0, width_map="pad_select")
    first, second = projector.linear_layers
    padded = fold_width_map(projector, fit_width_map(torch.randn(5, 7), WIDTH, kind="pad_select", seed=0))
    assert torch.equal(padded.linear_layers[0].weight, first.weight[:, :7])
    width_map = fit_width_map(torch.randn(5, 40), WIDTH, kind="pad_select", seed=0)
    narrowed = fold_width_map(projector, width_map)
    chosen = width_map.matrix_EW.argmax(dim=0)
    assert torch.equal(narrowed.linear_layers[0].weight[:, chosen], first.weight)
    assert narrowed.linear_layers[0].weight.count_nonzero() == first.weight.count_nonzero()
    for folded in (padded, narrowed):
        assert torch.equal(folded.linear_layers[0].bias, first.bias)
        assert torch.equal(folded.linear_layers[1].weight, second.weight)


def test_chunks_of_support_are_averaged() -> None:
    semi, batch = make_semi("equivariant").eval(), episode_batch(40, episodes=1, shots=8)
    support = batch.support
    halves = [
        type(support)(
            embeddings_NKE=support.embeddings_NKE[:, part],
            texts_NKW=support.texts_NKW[:, part],
            instructions_NW=support.instructions_NW,
        )
        for part in (slice(0, 4), slice(4, 8))
    ]
    singles = [semi.integrate(half, chunk=128) for half in halves]
    both = semi.integrate(support, chunk=4)
    for index, layer in enumerate(both.linear_layers):
        mean = torch.stack([single.linear_layers[index].weight for single in singles]).mean(dim=0)
        torch.testing.assert_close(layer.weight, mean, atol=1e-5, rtol=1e-5)


def test_wrong_widths_are_named() -> None:
    projector = Projector(WIDTH, 24, soft_tokens=1, dropout=0.0)
    with pytest.raises(ValueError, match=r"hypernet\.width=8 must equal projector\.input_width=16"):
        build_hypernet(HypernetConfig(kind="attention", width=8), projector)
    with pytest.raises(ValueError, match="support embeddings has width 40"):
        make_semi("attention")(episode_batch(40))


@pytest.mark.parametrize("kind", ["attention", "transformer"])
def test_a_rank_above_the_width_is_refused(kind: HypernetKind) -> None:
    projector = Projector(WIDTH, 24, soft_tokens=1, dropout=0.0)
    build_hypernet(HypernetConfig(kind=kind, width=WIDTH, rank=WIDTH), projector)
    with pytest.raises(ValueError, match=r"hypernet\.rank=17 is above the narrowest width .* layers \(16\)"):
        build_hypernet(HypernetConfig(kind=kind, width=WIDTH, rank=WIDTH + 1), projector)


def test_inference_of_a_transformer_computes_what_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own way for inference has another GELU on a GPU."""

    def other_way(*_: object) -> None:
        raise AssertionError("inference goes a way of its own")

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", other_way)
    semi, batch = make_semi("transformer"), episode_batch(WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(semi.eval()(batch), semi.train()(batch))


def test_a_transformer_without_layers_is_refused() -> None:
    projector = Projector(WIDTH, 24, soft_tokens=1, dropout=0.0)
    with pytest.raises(ValueError, match=r"hypernet\.layers=0 must be at least 1 for kind=transformer"):
        build_hypernet(HypernetConfig(kind="transformer", width=WIDTH, rank=2, layers=0), projector)


@pytest.mark.parametrize("kind", ["attention", "transformer", "equivariant"])
def test_heads_must_divide_the_width(kind: HypernetKind) -> None:
    projector = Projector(WIDTH, 24, soft_tokens=1, dropout=0.0)
    with pytest.raises(ValueError, match=r"hypernet\.heads=3 does not divide hypernet\.width=16"):
        build_hypernet(HypernetConfig(kind=kind, width=WIDTH, heads=3), projector)


def test_text_conditioning_off_hides_the_captions() -> None:
    torch.manual_seed(0)
    projector = Projector(WIDTH, 24, soft_tokens=1, dropout=0.0)
    config = HypernetConfig(kind="attention", width=WIDTH, rank=2, alpha=2.0, text_conditioning=False)
    blind = build_hypernet(config, projector)
    batch = episode_batch(WIDTH)
    other = type(batch.support)(
        embeddings_NKE=batch.support.embeddings_NKE,
        texts_NKW=-batch.support.texts_NKW,
        instructions_NW=batch.support.instructions_NW,
    )
    for mine, theirs in zip(blind(batch.support, projector), blind(other, projector), strict=True):
        assert mine is not None and theirs is not None
        assert torch.equal(mine.a_IR, theirs.a_IR)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_without_keys_and_values_is_attention(heads: int) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(WIDTH, heads).double()
    x = torch.randn(3, 9, WIDTH, dtype=torch.float64)
    q, k, v = (layer(x).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in (attention.q, attention.k, attention.v))
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=WIDTH**-0.5).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x, 2), plain[:, :2], atol=1e-12, rtol=1e-10)

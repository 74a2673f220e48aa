"""What is tuned, and the number of steps chosen inside the support."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.adaptation.finetune import DivergedError, Start, Tuned, finetune, finetune_together
from pipeline.adaptation.selection import best_candidate, selection_splits, step_candidates
from pipeline.config.load import ConfigError, load_config
from pipeline.config.schema import FinetuneConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from tests.unit.adaptation.worlds import CAPTIONS, make_support

STEPS = FinetuneConfig(steps=8, learning_rate=3e-2, batch_size=2)


def _projector(llm: FrozenLLM) -> Projector:
    torch.manual_seed(0)
    return Projector(6, llm.width, soft_tokens=2, dropout=0.0)


@pytest.mark.parametrize(
    ("tuned", "changed"),
    [
        ("all", {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"}),
        ("first_layer", {"layers.0.weight", "layers.0.bias"}),
        ("last_layer", {"layers.1.weight", "layers.1.bias"}),
        ("biases", {"layers.0.bias", "layers.1.bias"}),
    ],
)
def test_only_what_is_tuned_changes(llm: FrozenLLM, tuned: Tuned, changed: set[str]) -> None:
    start = _projector(llm)
    before = start.state_dict()
    after = finetune(start, llm, make_support(), replace(STEPS, tuned=tuned), seed=0).projector
    differs = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
    assert differs == changed
    assert {name for name, value in after.named_parameters() if value.requires_grad} == changed


def test_token_ids_give_the_losses_of_their_captions(llm: FrozenLLM) -> None:
    support = make_support()
    soft = _projector(llm)(support.embeddings_KE).detach()
    by_ids = llm.token_losses(soft, llm.caption_ids(support.captions))
    assert torch.equal(by_ids, llm.caption_losses(soft, support.captions))


@pytest.mark.parametrize("shots", [2, 3, 5, 32])
def test_folds_keep_every_pair_out_once(shots: int) -> None:
    splits = selection_splits(shots, replace(STEPS, selection="folds", folds=4), 0)
    assert len(splits) == min(4, shots)
    assert sorted(position for split in splits for position in split.kept_out) == list(range(shots))
    assert all(sorted(split.fitted + split.kept_out) == list(range(shots)) for split in splits)


@pytest.mark.parametrize(("shots", "fraction", "kept"), [(32, 0.25, 8), (2, 0.01, 1), (2, 0.99, 1), (5, 0.99, 4)])
def test_a_hold_out_leaves_pairs_on_both_sides(shots: int, fraction: float, kept: int) -> None:
    config = replace(STEPS, selection="holdout", holdout_fraction=fraction)
    (split,) = selection_splits(shots, config, 0)
    assert (len(split.kept_out), len(split.fitted)) == (kept, shots - kept)
    assert selection_splits(1, config, 0) == []


def test_candidates_are_points_of_the_run_and_equals_go_to_the_smallest() -> None:
    assert step_candidates(100) == [0, 25, 50, 75, 100]
    assert step_candidates(1) == [0, 1]
    assert best_candidate([0, 25, 50], [2.0, 1.0, 1.0]) == 25


@pytest.mark.parametrize("selection", ["holdout", "folds"])
def test_steps_that_only_harm_are_not_made(llm: FrozenLLM, selection: str) -> None:
    support = make_support()
    start = finetune(_projector(llm), llm, support, FinetuneConfig(steps=150, learning_rate=3e-2), seed=1).projector
    harmful = replace(STEPS, learning_rate=30.0, selection=selection)
    kept = finetune(start, llm, support, harmful, seed=1)
    assert kept.steps == 0
    assert all(torch.equal(kept.projector.state_dict()[name], value) for name, value in start.state_dict().items())
    fixed = finetune(start, llm, support, replace(harmful, selection="fixed"), seed=1).projector
    assert not torch.equal(fixed.layers[0].weight, start.layers[0].weight)  # type: ignore[arg-type]


def test_the_steps_that_were_made_are_told(llm: FrozenLLM) -> None:
    support = make_support()
    assert finetune(_projector(llm), llm, support, STEPS, seed=0).steps == 8
    assert finetune(_projector(llm), llm, support, replace(STEPS, min_epochs=5.0), seed=0).steps == 13
    assert finetune(_projector(llm), llm, support, replace(STEPS, steps=0), seed=0).steps == 0


def test_a_loss_that_is_no_number_is_a_divergence(llm: FrozenLLM) -> None:
    wild = replace(STEPS, learning_rate=1e38)
    with pytest.raises(DivergedError, match=r"'radar' diverged at step \d: lower finetune.learning_rate"):
        finetune(_projector(llm), llm, make_support(), wild, seed=0)


def test_low_rank_updates_have_no_biases_to_tune() -> None:
    with pytest.raises(ConfigError, match=r"random_lora.tuned must be 'all'.*got 'biases'"):
        load_config(preset="smoke", overrides=["evaluate.random_lora.tuned=biases"])


@pytest.mark.parametrize("selection", ["fixed", "holdout", "folds"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_fits_made_together_are_the_fits_made_alone(llm: FrozenLLM, selection: str, dropout: float) -> None:
    config = replace(STEPS, selection=selection)
    torch.manual_seed(0)
    starts = [
        Start(
            projector=Projector(6, llm.width, soft_tokens=2, dropout=dropout),
            support=make_support(seed=number, captions=CAPTIONS[: 3 + number]),
            seed=number,
        )
        for number in range(3)
    ]
    together = finetune_together(starts, llm, config)
    for start, made in zip(starts, together, strict=True):
        alone = finetune(start.projector, llm, start.support, config, seed=start.seed)
        assert made.steps == alone.steps
        for name, value in alone.projector.state_dict().items():
            torch.testing.assert_close(made.projector.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert finetune_together([], llm, config) == []


def test_dropout_in_fine_tuning_depends_on_the_seed(llm: FrozenLLM) -> None:
    start, support = Projector(6, llm.width, soft_tokens=2, dropout=0.5), make_support()
    weights = [finetune(start, llm, support, STEPS, seed=seed).projector.state_dict() for seed in (0, 0)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    # A batch of all pairs has one order: what differs is what is dropped.
    whole = replace(STEPS, batch_size=support.shots)
    one, other = (finetune(start, llm, support, whole, seed=seed).projector.state_dict() for seed in (0, 1))
    assert not torch.allclose(one["layers.1.weight"], other["layers.1.weight"])

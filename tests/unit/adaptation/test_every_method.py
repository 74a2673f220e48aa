"""What holds of every method: a pure function of the support and the seed, which takes any support."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.adaptation.captioner import ProjectorCaptioner
from pipeline.adaptation.methods import TrainedMethod, count_parameters
from pipeline.config.schema import AdapterMethod, HypernetKind, MethodName
from pipeline.evaluation.summary import LABELS
from pipeline.models.frozen_llm import FrozenLLM
from tests.unit.adaptation.worlds import (
    CAPTIONS,
    HIDDEN,
    SOFT,
    STEPS,
    TEXT_WIDTH,
    behaviour,
    make_support,
    make_world,
    no_training_supports,
)

METHODS: tuple[MethodName, ...] = get_args(MethodName)
READ_TRAINING: set[MethodName] = {"semi_other_support", "average_adapter"}
DETERMINISTIC: set[MethodName] = {
    *("ridge", "procrustes", "cca", "retrieval_icl", "knn_1", "knn_3", "knn_5", "constant", "linear_probe"),
    "semi_no_finetune",
}
every_method = pytest.mark.parametrize("name", METHODS)
NEW = normalize(torch.randn(7, 6, generator=torch.Generator().manual_seed(9)), dim=-1)


def test_every_method_has_a_name_in_reports() -> None:
    assert set(LABELS) == set(METHODS)
    assert len(set(LABELS.values())) == len(METHODS)


@every_method
@pytest.mark.parametrize("kind", ["equivariant", "attention"])
def test_a_fit_depends_on_support_and_seed_alone(llm: FrozenLLM, kind: HypernetKind, name: MethodName) -> None:
    world, support = make_world(llm, kind), make_support()
    states = [{key: value.clone() for key, value in module.state_dict().items()} for module in (world.semi, llm)]
    torch.manual_seed(1)
    captions, soft = behaviour(world.method(name).fit(support, 3), NEW)
    torch.manual_seed(2)
    again, soft_again = behaviour(world.method(name).fit(support, 3), NEW)
    assert captions == again and torch.equal(soft, soft_again)
    assert len(captions) == len(NEW)
    for module, before in zip((world.semi, llm), states, strict=True):
        assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@every_method
def test_stochastic_says_whether_the_seed_counts(llm: FrozenLLM, name: MethodName) -> None:
    world, support = make_world(llm), make_support()
    method = world.method(name)
    assert method.stochastic == (name not in DETERMINISTIC)
    fits = [behaviour(method.fit(support, seed), NEW) for seed in range(6)]
    same = all(captions == fits[0][0] and torch.equal(soft, fits[0][1]) for captions, soft in fits)
    assert same == (name in DETERMINISTIC)


def test_a_width_map_makes_an_adapter_as_generated_depend_on_the_seed(llm: FrozenLLM) -> None:
    method = make_world(llm, "attention").method("semi_no_finetune")
    assert method.stochastic
    (_, one), (_, two) = (behaviour(method.fit(make_support(3), seed), NEW[:, :3]) for seed in (0, 1))
    assert not torch.allclose(one, two)


@pytest.mark.parametrize("name", sorted(set(METHODS) - READ_TRAINING))
def test_methods_ask_for_no_other_modality(llm: FrozenLLM, name: MethodName) -> None:
    method = make_world(llm).method(name, training=no_training_supports)
    assert len(method.fit(make_support(), 0).caption(NEW)) == len(NEW)


@pytest.mark.parametrize("name", sorted(READ_TRAINING))
def test_controls_without_the_support_read_its_size_and_width_alone(llm: FrozenLLM, name: MethodName) -> None:
    method = make_world(llm).method(name)
    captions, soft = behaviour(method.fit(make_support(seed=1), 0), NEW)
    others, soft_others = behaviour(method.fit(make_support(seed=2, captions=CAPTIONS[::-1]), 0), NEW)
    assert captions == others and torch.equal(soft, soft_others)


@pytest.mark.parametrize("name", ["semi_random_embeddings", "constant"])
def test_some_methods_read_no_embeddings(llm: FrozenLLM, name: MethodName) -> None:
    method, support = make_world(llm).method(name), make_support()
    turned = replace(support, embeddings_KE=support.embeddings_KE.flip(0))
    assert behaviour(method.fit(support, 0), NEW)[0] == behaviour(method.fit(turned, 0), NEW)[0]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"linear_probe"}))
def test_only_the_probe_reads_attributes(llm: FrozenLLM, name: MethodName) -> None:
    method, support = make_world(llm).method(name), make_support()
    _, soft = behaviour(method.fit(support, 0), NEW)
    captions, without = behaviour(method.fit(replace(support, attributes=()), 0), NEW)
    assert torch.equal(soft, without) and len(captions) == len(NEW)


@pytest.mark.parametrize("name", get_args(AdapterMethod))
def test_what_an_adapter_ships_is_what_is_scored(llm: FrozenLLM, name: MethodName) -> None:
    method, support = make_world(llm).method(name), make_support()
    assert isinstance(method, TrainedMethod)
    captioner, made = method.fit(support, 3), method.project(support, 3)
    assert isinstance(captioner, ProjectorCaptioner) and captioner.before is None
    assert made.steps == STEPS.steps
    soft = [projector.eval()(NEW) for projector in (captioner.projector, made.projector)]
    assert torch.equal(*soft)


@every_method
@pytest.mark.parametrize("width", [3, 4, 9])
def test_methods_take_encoders_of_any_width(llm: FrozenLLM, name: MethodName, width: int) -> None:
    for kind in ("equivariant", "attention"):
        captioner = make_world(llm, kind).method(name).fit(make_support(width), 0)
        assert len(captioner.caption(torch.randn(2, width))) == 2


@every_method
def test_parameters_are_counted(llm: FrozenLLM, name: MethodName) -> None:
    world, support = make_world(llm), make_support(6)
    captioner = world.method(name).fit(support, 0)
    soft = SOFT * llm.width
    whole = 6 * HIDDEN + HIDDEN + HIDDEN * soft + soft
    path = TEXT_WIDTH * HIDDEN + HIDDEN + HIDDEN * soft + soft
    aligned = 6 * TEXT_WIDTH + 6 + TEXT_WIDTH
    # The equivariant adapter: A [6, 3], B [3, HIDDEN] and a bias; of the last layer a bias alone. LoRA has a rank of
    # 6 + HIDDEN + HIDDEN + soft numbers each.
    generated, per_rank = 6 * 3 + 3 * HIDDEN + HIDDEN + soft, 6 + HIDDEN + HIDDEN + soft
    lora = round(generated / per_rank) * per_rank
    probe = 6 + 1 + 2 * 6
    expected: dict[MethodName, tuple[int, int]] = {
        "average_adapter": (0, whole),
        "semi_no_finetune": (0, whole),
        "limber": (6 * soft + soft, 6 * soft + soft),
        "random_lora": (lora, whole),
        **dict.fromkeys(("ridge", "procrustes", "cca"), (aligned, aligned + path)),
        **dict.fromkeys(("knn_1", "knn_3", "knn_5", "retrieval_icl"), (0, 5 * 6)),
        "constant": (0, 0),
        "linear_probe": (probe, probe),
    }
    assert (captioner.trained_parameters, captioner.deployed_parameters) == expected.get(name, (whole, whole))
    if isinstance(captioner, ProjectorCaptioner):
        assert captioner.deployed_parameters >= count_parameters(captioner.projector)


@every_method
@pytest.mark.parametrize("case", ["one class", "duplicates", "no variance", "dead features", "one pair"])
def test_supports_with_little_information_are_taken(llm: FrozenLLM, name: MethodName, case: str) -> None:
    """Documented in `pipeline.adaptation.alignment.base`; shuffling one pair is the only thing refused."""
    support = make_support(6, ["a red circle"] * 5 if case == "one class" else CAPTIONS)
    if case == "duplicates":
        support = make_support(6, [CAPTIONS[0]] * 3 + [CAPTIONS[1]] * 3)
        rows = torch.tensor([0, 0, 0, 3, 3, 3])
        support = replace(support, embeddings_KE=support.embeddings_KE[rows])
    elif case == "no variance":
        support = replace(support, embeddings_KE=support.embeddings_KE[:1].expand(5, -1))
    elif case == "dead features":
        x = support.embeddings_KE.clone()
        x[:, 2:] = 0.0
        support = replace(support, embeddings_KE=normalize(x, dim=-1))
    elif case == "one pair":
        support = make_support(6, CAPTIONS[:1])
    for kind in ("equivariant", "attention"):
        method = make_world(llm, kind).method(name)
        if case == "one pair" and name == "semi_shuffled_text":
            with pytest.raises(ValueError, match="needs at least 2 pairs, got 1"):
                method.fit(support, 0)
            continue
        captions, soft = behaviour(method.fit(support, 0), NEW)
        assert len(captions) == len(NEW) and torch.isfinite(soft).all()


@every_method
def test_captions_in_another_script_are_taken(llm: FrozenLLM, name: MethodName) -> None:
    support = make_support(6, ["κόκκινος κύκλος", "青い四角", "दायाँ", "a small square"])
    assert len(make_world(llm).method(name).fit(support, 0).caption(NEW)) == len(NEW)

"""Baselines and controls on support sets with a known answer."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.adaptation.artifact import AdapterCard, SignalCard, check_fits, load_adapter, save_adapter
from pipeline.adaptation.captioner import ProjectorCaptioner
from pipeline.adaptation.finetune import finetune
from pipeline.adaptation.methods import TrainedProjectorMethod
from pipeline.adaptation.methods.copying import ConstantMethod, KnnCopyMethod
from pipeline.adaptation.support import SupportSet, shuffle_texts
from pipeline.config.schema import EncoderConfig, FinetuneConfig, LLMConfig, WidthMapKind
from pipeline.episodes.width import fit_width_map
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector

CAPTIONS = ("a red circle", "a blue square", "a green circle on the left .", "a small square", "a red square")


def _support(width: int = 6, captions: tuple[str, ...] = CAPTIONS, seed: int = 0) -> SupportSet:
    generator = torch.Generator().manual_seed(seed)
    shots = len(captions)
    return SupportSet(
        modality="radar",
        encoder="radar-a",
        ids=tuple(f"r{i}" for i in range(shots)),
        embeddings_KE=normalize(torch.randn(shots, width, generator=generator), dim=-1),
        texts_KW=normalize(torch.randn(shots, 4, generator=generator), dim=-1),
        captions=captions,
        instruction_W=torch.zeros(4),
    )


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_text_gives_every_sample_another_pairs_text(seed: int) -> None:
    support = _support()
    shuffled = shuffle_texts(support, seed)
    assert sorted(shuffled.captions) == sorted(support.captions)
    for position, caption in enumerate(shuffled.captions):
        source = support.captions.index(caption)
        assert source != position
        assert torch.equal(shuffled.texts_KW[position], support.texts_KW[source])
    assert torch.equal(shuffled.embeddings_KE, support.embeddings_KE)


def test_shuffling_one_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 2 pairs, got 1"):
        shuffle_texts(_support(captions=("a red circle",)), 0)


def test_nearest_neighbour_copies_its_own_caption() -> None:
    support = _support()
    captioner = KnnCopyMethod(neighbours=1).fit(support, 0)
    assert captioner.caption(support.embeddings_KE) == list(CAPTIONS)


def test_neighbours_agree_by_text() -> None:
    support = _support(captions=("a", "b", "c"))
    texts = normalize(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0.1, 0], [0, 1.0, 0, 0]]), dim=-1)
    support = SupportSet(
        modality="m",
        encoder="e",
        ids=support.ids,
        embeddings_KE=support.embeddings_KE,
        texts_KW=texts,
        captions=support.captions,
        instruction_W=support.instruction_W,
    )
    assert KnnCopyMethod(neighbours=3).fit(support, 0).caption(support.embeddings_KE)[0] in {"b", "c"}


def test_constant_is_the_most_frequent_caption() -> None:
    support = _support(captions=("x", "y", "y"))
    assert ConstantMethod().fit(support, 0).caption(torch.zeros(2, 6)) == ["y", "y"]


def test_finetuning_learns_the_support_and_leaves_the_original_alone(llm: FrozenLLM) -> None:
    torch.manual_seed(0)
    projector, support = Projector(6, llm.width, soft_tokens=2, dropout=0.0), _support()
    before = {name: value.clone() for name, value in projector.state_dict().items()}
    tuned = finetune(projector, llm, support, FinetuneConfig(steps=60, learning_rate=3e-2), seed=1).projector
    with torch.no_grad():
        losses = [llm.loss(p.eval()(support.embeddings_KE), support.captions) for p in (projector, tuned)]
    assert losses[1] < 0.8 * losses[0]
    assert all(torch.equal(before[name], value) for name, value in projector.state_dict().items())
    again = finetune(projector, llm, support, FinetuneConfig(steps=60, learning_rate=3e-2), seed=1).projector
    assert all(torch.equal(again.state_dict()[name], value) for name, value in tuned.state_dict().items())


def test_no_steps_return_the_projector_as_it_is(llm: FrozenLLM) -> None:
    projector = Projector(6, llm.width, soft_tokens=2, dropout=0.5)
    same = finetune(projector, llm, _support(), FinetuneConfig(steps=0), seed=1).projector
    x = torch.randn(3, 6)
    assert torch.equal(same(x), projector.eval()(x))


def _trained(
    pretrained: Projector, llm: FrozenLLM, support: SupportSet, *, from_scratch: bool, steps: int
) -> Projector:
    method = TrainedProjectorMethod(
        projector=pretrained, from_scratch=from_scratch, llm=llm, finetuning=FinetuneConfig(steps=steps)
    )
    captioner = method.fit(support, 3)
    assert isinstance(captioner, ProjectorCaptioner)
    assert len(captioner.caption(support.embeddings_KE)) == support.shots
    assert captioner.trained_parameters == captioner.deployed_parameters > 0
    return captioner.projector


@pytest.mark.parametrize("from_scratch", [True, False])
@pytest.mark.parametrize("width", [4, 6, 9])
def test_gradient_baselines_take_any_width(llm: FrozenLLM, width: int, from_scratch: bool) -> None:
    pretrained, support = Projector(6, llm.width, soft_tokens=2, dropout=0.0), _support(width)
    assert _trained(pretrained, llm, support, from_scratch=from_scratch, steps=1).input_width == width


@pytest.mark.parametrize("width", [4, 9])
def test_a_fine_tuned_projector_starts_behind_its_width_map(llm: FrozenLLM, width: int) -> None:
    support = _support(width)
    started = []
    for kind in get_args(WidthMapKind):
        torch.manual_seed(0)
        pretrained = Projector(6, llm.width, soft_tokens=2, dropout=0.0, width_map=kind).eval()
        width_map = fit_width_map(support.embeddings_KE, 6, kind=kind, seed=3)
        kept = _trained(pretrained, llm, support, from_scratch=False, steps=0)
        with torch.no_grad():
            started.append(kept(support.embeddings_KE))
            torch.testing.assert_close(started[-1], pretrained(width_map(support.embeddings_KE)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(*started)


def test_gradient_baselines_differ_in_where_they_start(llm: FrozenLLM) -> None:
    pretrained, support = Projector(6, llm.width, soft_tokens=2, dropout=0.0).eval(), _support()
    kept, fresh = (_trained(pretrained, llm, support, from_scratch=start, steps=0) for start in (False, True))
    x = support.embeddings_KE
    with torch.no_grad():
        assert torch.equal(kept(x), pretrained(x))
        assert not torch.allclose(fresh(x), pretrained(x))
        again = _trained(pretrained, llm, support, from_scratch=True, steps=0)
        assert torch.equal(again(x), fresh(x)), "the seed decides"


def test_adapter_round_trip_and_misfits(tmp_path: Path) -> None:
    projector = Projector(6, 16, hidden_width=8, soft_tokens=2, dropout=0.0).eval()
    card = AdapterCard(
        method="semi",
        hypernet="equivariant",
        rank=4,
        modality="radar",
        signals=SignalCard(kind="series"),
        encoder=EncoderConfig(name="radar-a", path="models/radar"),
        encoder_fingerprint="e",
        llm=LLMConfig(path="lm"),
        llm_fingerprint="l",
        input_width=6,
        hidden_width=8,
        llm_width=16,
        soft_tokens=2,
        finetune_steps=0,
        seconds=0.5,
        support_ids=("a", "b"),
        seed=0,
        draw=0,
        config_fingerprint="f",
    )
    save_adapter(tmp_path, projector, card)
    loaded, read = load_adapter(tmp_path)
    assert read == card and read.shots == 2
    x = torch.randn(3, 6)
    assert torch.equal(loaded(x), projector(x))
    with pytest.raises(ValueError, match="reads embeddings of width 6 .*got width 7"):
        check_fits(card, input_width=7, llm_width=16)
    with pytest.raises(ValueError, match="speaks to an LLM of width 16 .*got width 32"):
        check_fits(card, input_width=6, llm_width=32)


def test_an_adapter_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no adapter"):
        load_adapter(tmp_path)
    card = tmp_path / "adapter.json"
    card.write_text('{"format_version": 2}')
    with pytest.raises(ValueError, match="adapter format 2, this code reads 3; make the adapter again"):
        load_adapter(tmp_path)
    card.write_text('{"format_version": 3, "method": 7}')
    with pytest.raises(ValueError, match="field 'method': .*make the adapter again"):
        load_adapter(tmp_path)
    card.write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        load_adapter(tmp_path)

"""Retrieved captions as a prompt, and the linear probe of the attributes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.adaptation.methods.copying import RetrievalCaptioner, nearest
from pipeline.adaptation.methods.probe import LinearProbeMethod
from pipeline.config.schema import LLMConfig, RetrievalConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.prompt import encode_text
from tests.unit.adaptation.worlds import make_support

SETTINGS = RetrievalConfig(neighbours=3, prompt="describe : {captions} caption :", separator=" . ")


def test_nearest_pairs_come_first_and_all_where_there_are_fewer() -> None:
    support = make_support()
    positions = nearest(support.embeddings_KE, support, 9)
    assert positions.shape == (5, 5)
    assert positions[:, 0].tolist() == list(range(5))
    similarity = (support.embeddings_KE @ support.embeddings_KE.T).gather(1, positions)
    assert torch.all(similarity.diff(dim=1) <= 0)


def test_the_prompt_ends_with_the_nearest_caption(llm: FrozenLLM) -> None:
    captioner = RetrievalCaptioner(llm=llm, settings=SETTINGS, support=make_support())
    ids = captioner._prompt(["a red circle", "a blue square", "a circle"])
    wanted = "describe : a circle . a blue square . a red circle caption :"
    assert ids == encode_text(llm.tokenizer, llm.config, wanted)
    assert ids[0] == llm.tokenizer.bos_token_id


def test_the_farthest_captions_are_dropped_where_the_context_is_short(
    llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = RetrievalCaptioner(llm=llm, settings=SETTINGS, support=make_support())
    captions = ["a red circle", "a blue square", "a circle"]
    two = captioner._prompt(captions[:2])
    monkeypatch.setattr(llm.model.config, "max_position_embeddings", len(two) + llm.config.max_caption_tokens)
    assert captioner._prompt(captions) == two
    monkeypatch.setattr(llm.model.config, "max_position_embeddings", llm.config.max_caption_tokens)
    with pytest.raises(ValueError, match="evaluate.retrieval.prompt with one caption has 8 tokens.*context of 12"):
        captioner._prompt(captions)


def test_prompts_of_a_batch_are_generated_as_each_alone(llm: FrozenLLM) -> None:
    """Padding on the left changes nothing."""
    texts = ["describe : a red circle caption :", "a blue square on the left . caption :", "caption"]
    prompts = [encode_text(llm.tokenizer, llm.config, text) for text in texts]
    together = llm.generate_from_text(prompts)
    assert together == [llm.generate_from_text([prompt])[0] for prompt in prompts]
    assert len(set(together)) > 1, "the prompt decides"


def test_text_stands_for_soft_tokens_of_the_same_embeddings(llm: FrozenLLM) -> None:
    """Soft tokens that are a word's embedding, in the LLM's own prompt, give what the word gives."""
    soft = llm.model.get_input_embeddings()(torch.tensor([llm.tokenizer.convert_tokens_to_ids("red")]))
    prompt = encode_text(llm.tokenizer, llm.config, "describe : red caption :")
    assert llm.generate_from_text([prompt]) == llm.generate(soft.detach().unsqueeze(0))


def test_a_chat_model_is_prompted_as_the_user(tiny_lm_dir: Path) -> None:
    llm = FrozenLLM(LLMConfig(path=str(tiny_lm_dir), max_caption_tokens=4), tiny_lm_dir)
    llm.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} . {% endfor %}caption :"
    config = replace(llm.config, chat=True, system_prompt="describe")
    ids = encode_text(llm.tokenizer, config, "a red circle")
    assert llm.tokenizer.decode(ids).split() == "describe . a red circle . caption :".split()


def test_a_template_without_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt must contain '{captions}' exactly once, got 'caption :'"):
        RetrievalConfig(prompt="caption :")


def test_the_probe_names_linearly_separable_attributes() -> None:
    generator = torch.Generator().manual_seed(0)
    names = [("red", "blue")[i % 2] for i in range(40)], [("left", "right", "middle")[i % 3] for i in range(40)]
    x = 0.1 * torch.randn(40, 8, generator=generator)
    for row, (colour, place) in enumerate(zip(*names, strict=True)):
        x[row, ("red", "blue").index(colour)] += 1.0
        x[row, 2 + ("left", "right", "middle").index(place)] += 1.0
    support = replace(
        make_support(8, ["a red circle"] * 40),
        embeddings_KE=normalize(x, dim=-1),
        attributes=tuple({"colour": c, "place": p} for c, p in zip(*names, strict=True)),
    )
    captioner = LinearProbeMethod().fit(support, 0)
    assert captioner.caption(support.embeddings_KE) == [f"{c}, {p}" for c, p in zip(*names, strict=True)]
    # One row of coefficients for two classes, three for three; then the means and deviations.
    assert captioner.trained_parameters == (8 + 1) + 3 * (8 + 1) + 2 * 8


def test_an_attribute_with_one_value_is_that_value() -> None:
    support = make_support(6, ["a red circle"] * 4)
    assert LinearProbeMethod().fit(support, 0).caption(torch.randn(2, 6)) == ["circle", "circle"]


def test_pairs_without_an_attribute_are_left_out_of_its_classifier() -> None:
    support = make_support()
    partly = tuple({} if i == 0 else {**values} for i, values in enumerate(support.attributes))
    full = replace(support, attributes=partly)
    assert len(LinearProbeMethod().fit(full, 0).caption(support.embeddings_KE)) == 5


def test_a_probe_without_attributes_is_refused() -> None:
    with pytest.raises(ValueError, match="the pairs of 'radar' have none: remove linear_probe"):
        LinearProbeMethod().fit(replace(make_support(), attributes=()), 0)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.miniature.grammar import (
    CAPTION_WORDS,
    GRAMMARS,
    Attribute,
    Grammar,
    contains_phrase,
    paraphrase_pairs,
)


@st.composite
def told(draw: st.DrawFn) -> tuple[Grammar, dict[str, str], int]:
    """A grammar, one value for each attribute, and a template."""
    grammar = draw(st.sampled_from(list(GRAMMARS.values())))
    values = {attribute.name: draw(st.sampled_from(attribute.values)) for attribute in grammar.attributes}
    return grammar, values, draw(st.integers(0, len(grammar.templates) - 1))


@given(told())
def test_caption_parses_back_to_its_values(case: tuple[Grammar, dict[str, str], int]) -> None:
    grammar, values, template = case
    caption = grammar.render(values, template)
    assert grammar.parse(caption) == values
    shortest, longest = CAPTION_WORDS
    assert shortest <= len(caption.split()) <= longest
    assert caption == caption.lower()
    assert caption.endswith(".")


@given(told())
def test_no_other_phrase_of_the_grammar_occurs(case: tuple[Grammar, dict[str, str], int]) -> None:
    grammar, values, template = case
    caption = grammar.render(values, template)
    phrases = [phrase for attribute in grammar.attributes for phrase in attribute.values]
    assert sorted(p for p in phrases if contains_phrase(caption, p)) == sorted(values.values())


@given(told(), st.integers(0, 2**32))
def test_paraphrases_differ_and_mean_the_same(case: tuple[Grammar, dict[str, str], int], seed: int) -> None:
    grammar, values, _ = case
    first, second = grammar.paraphrases(values, np.random.default_rng(seed))
    assert first != second
    assert grammar.parse(first) == grammar.parse(second) == values


@pytest.mark.parametrize("grammar", GRAMMARS.values(), ids=GRAMMARS)
def test_values_are_drawn_evenly_and_independently(grammar: Grammar) -> None:
    rng = np.random.default_rng(0)
    draws = [grammar.sample(rng) for _ in range(3000)]
    levels = np.array([[grammar.level(name, draw[name]) for name in grammar.attribute_names] for draw in draws])
    for column, attribute in enumerate(grammar.attributes):
        share = np.bincount(levels[:, column], minlength=len(attribute.values)) / len(draws)
        np.testing.assert_allclose(share, 1 / len(attribute.values), atol=0.03)
    correlation = np.corrcoef(levels.T) - np.eye(levels.shape[1])
    assert np.abs(correlation).max() < 0.08


def test_parse_leaves_out_what_is_absent_or_ambiguous() -> None:
    grammar = GRAMMARS["image"]
    assert grammar.parse("a tiny red circle or a red square") == {"size": "tiny", "colour": "red"}
    assert grammar.parse("nothing of the kind") == {}


def test_paraphrase_pairs_are_reproducible() -> None:
    grammar = GRAMMARS["imu"]
    first = paraphrase_pairs(grammar, 5, np.random.default_rng(7))
    assert first == paraphrase_pairs(grammar, 5, np.random.default_rng(7))
    assert len(first) == 5


def test_unknown_attribute_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"grammar 'speech' has no attribute 'hue'; it has \['speaker', 'word'"):
        GRAMMARS["speech"].values("hue")


def _grammar(values: tuple[str, ...], *templates: str) -> Grammar:
    return Grammar(name="g", attributes=(Attribute(name="a", values=values),), templates=templates)


_GOOD = ("one {a}", "two {a}", "three {a}", "four {a}")


@pytest.mark.parametrize(
    ("values", "templates", "message"),
    [
        (("red", "dark red"), _GOOD, "value 'red' also occurs in another value"),
        (("red", "red"), _GOOD, "value 'red' also occurs in another value"),
        (("Red",), _GOOD, "value 'Red' is not lower-case words"),
        (("red",), _GOOD[:3], "has 3 templates, needs >= 4"),
        (("red",), (*_GOOD, "no field"), "must use once each"),
        (("red",), (*_GOOD, "{a} and {a}"), "must use once each"),
        (("red",), (*_GOOD, "a red {a}"), "value 'red' occurs in template 'a red {a}'"),
        (("red",), (*_GOOD, "a, {a}"), "template 'a, {a}' is not lower-case words"),
    ],
)
def test_ambiguous_grammars_are_refused(values: tuple[str, ...], templates: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _grammar(values, *templates)

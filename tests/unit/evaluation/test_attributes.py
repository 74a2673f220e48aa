"""Exact attribute accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.attributes import attribute_accuracy, vocabulary_of

VOCABULARY = {
    "colour": frozenset({"blue", "dark blue", "red", "light red"}),
    "count": frozenset({"one", "two", "twenty two"}),
}


def right(caption: str, colour: str) -> bool:
    scores = attribute_accuracy([caption], [{"colour": colour}], VOCABULARY)
    return bool(scores.mean == 1.0)


def test_mean_per_attribute_and_per_sample() -> None:
    scores = attribute_accuracy(
        ["two blue things", "one red thing", "nothing"],
        [{"colour": "blue", "count": "two"}, {"colour": "blue", "count": "one"}, {"colour": "red", "count": "one"}],
        VOCABULARY,
    )
    assert scores.per_sample.tolist() == [1.0, 0.5, 0.0]
    assert scores.per_attribute == {"colour": pytest.approx(1 / 3), "count": pytest.approx(2 / 3)}
    assert scores.mean == pytest.approx(0.5)


def test_a_value_within_a_longer_one_does_not_count() -> None:
    assert right("a dark blue car", "dark blue")
    assert not right("a dark blue car", "blue")


def test_of_values_that_start_together_the_longest_is_found() -> None:
    vocabulary = {"colour": frozenset({"blue", "blue green"})}
    captions = ["a blue green sea", "a blue green sea"]
    scores = attribute_accuracy(captions, [{"colour": "blue green"}, {"colour": "blue"}], vocabulary)
    assert scores.per_sample.tolist() == [1.0, 0.0]


def test_a_value_beside_the_longer_one_does_count() -> None:
    assert not right("a dark blue car, blue sky", "dark blue")


def test_any_other_value_makes_it_wrong_and_repetition_does_not() -> None:
    assert not right("blue or red", "blue")
    assert right("blue on blue", "blue")


def test_overlapping_values_are_both_found() -> None:
    vocabulary = {"place": frozenset({"old town", "town hall"})}
    scores = attribute_accuracy(["the old town hall"], [{"place": "town hall"}], vocabulary)
    assert scores.mean == 0.0


def test_word_boundaries_case_and_white_space() -> None:
    assert not right("a bluebird", "blue")
    assert right("A  DARK\nBlue-ish thing.", "dark blue")
    assert not attribute_accuracy(["twenty  two cats"], [{"count": "two"}], VOCABULARY).mean


def test_values_with_regex_signs_are_literal() -> None:
    vocabulary = {"price": frozenset({"$5.0", "5x0", "(low)"})}
    truths = [{"price": "$5.0"}, {"price": "(low)"}]
    assert attribute_accuracy(["it is $5.0 now", "quite (low)."], truths, vocabulary).mean == 1.0
    assert attribute_accuracy(["it is 5x0 now"], [{"price": "$5.0"}], vocabulary).mean == 0.0


def test_missing_attributes_are_not_scored() -> None:
    scores = attribute_accuracy(["two", "blue"], [{"count": "two"}, {"colour": "red"}], VOCABULARY)
    assert scores.per_sample.tolist() == [1.0, 0.0]
    assert scores.per_attribute == {"count": 1.0, "colour": 0.0}


def test_vocabulary_of_collects_every_value() -> None:
    assert vocabulary_of([{"a": "x"}, {"a": "y", "b": "z"}, {"a": "x"}]) == {"a": {"x", "y"}, "b": {"z"}}


@given(st.lists(st.sampled_from(sorted(VOCABULARY["colour"])), min_size=1, max_size=5))
def test_a_caption_that_lists_values_is_right_exactly_for_a_single_one(colours: list[str]) -> None:
    caption = " and ".join(colours)
    verdicts = [right(caption, colour) for colour in VOCABULARY["colour"]]
    assert sum(verdicts) == (1 if len(set(colours)) == 1 else 0)


def test_many_captions_agree_with_a_plain_count() -> None:
    rng = np.random.default_rng(0)
    colours = ["blue", "red"]
    truths = [{"colour": colours[i]} for i in rng.integers(0, 2, 500)]
    said = [colours[i] for i in rng.integers(0, 2, 500)]
    scores = attribute_accuracy([f"it is {word} ." for word in said], truths, VOCABULARY)
    expected = [word == truth["colour"] for word, truth in zip(said, truths, strict=True)]
    assert scores.per_sample.tolist() == expected


@pytest.mark.parametrize(
    ("captions", "truths", "vocabulary", "message"),
    [
        ([], [], VOCABULARY, "got 0, 0"),
        (["a"], [], VOCABULARY, "got 1, 0"),
        (["a"], [{}], VOCABULARY, r"truths\[0\] is empty"),
        (["a"], [{"colour": "pink"}], VOCABULARY, "'pink' is not a value of attribute 'colour'; it has .*'light red'"),
        (["a"], [{"size": "big"}], VOCABULARY, r"has attribute 'size'; the vocabulary has \['colour', 'count'\]"),
        (["a"], [{"size": " "}], {"size": frozenset({" "})}, r"vocabulary\['size'\] is \[' '\]"),
    ],
)
def test_unusable_input_is_refused(
    captions: list[str], truths: list[dict[str, str]], vocabulary: dict[str, frozenset[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attribute_accuracy(captions, truths, vocabulary)

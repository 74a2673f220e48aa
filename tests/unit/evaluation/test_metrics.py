"""Caption metrics against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.evaluation.metrics import ReferenceSet, caption_metrics, tokenize
from pipeline.evaluation.results import TEXT_METRICS
from tests.unit.evaluation.conftest import Texts


def test_tokens_are_lower_case_words_with_inner_hyphens_apostrophes_and_decimals() -> None:
    assert tokenize("The dog's well-lit, 3.5 m tall; CAFÉ (naïve) -- end.") == [
        "the", "dog's", "well-lit", "3.5", "m", "tall", "café", "naïve", "end",
    ]  # fmt: skip
    assert tokenize(" .,;! ") == []


def test_cider_d_of_a_perfect_and_a_wrong_caption() -> None:
    # idf: "a" is in both reference sets (0), "b", "c", "a b" and "a c" in one of two (log 2).  The first caption agrees
    # on 1- and 2-grams and there are no longer ones: (1 + 1 + 0 + 0) / 4.  The second shares only "a", which weighs 0.
    scores = caption_metrics(["a b", "a b"], [["a b"], ["a c"]])
    assert scores.cider_d_per_sample == pytest.approx([500.0, 0.0])
    assert scores.cider_d == pytest.approx(250.0)


def test_cider_d_clips_repeated_words() -> None:
    # "b b" has weight 2 on b, the reference 1: min(2, 1) * 1 / (2 * 1) = 1/2 on 1-grams, nothing on 2-grams.
    # Without the clipping of CIDEr-D the cosine would be 1.
    scores = caption_metrics(["b b", "a c"], [["a b"], ["a c"]])
    assert scores.cider_d_per_sample[0] == pytest.approx(1000.0 * 0.5 / 4)


def test_cider_d_penalises_another_length() -> None:
    # "b" agrees on the 1-grams; lengths are counted in 2-grams, 0 against 1: exp(-1 / (2 * 6^2)).
    scores = caption_metrics(["b", "a c"], [["a b"], ["a c"]])
    assert scores.cider_d_per_sample[0] == pytest.approx(1000.0 * math.exp(-1 / 72) / 4)


def test_cider_d_is_a_mean_over_references() -> None:
    scores = caption_metrics(["a b", "a c"], [["a b", "z z"], ["a c"]])
    assert scores.cider_d_per_sample == pytest.approx([250.0, 500.0])


def test_cider_d_of_identical_long_captions_is_1000() -> None:
    texts = ["one two three four five", "six seven eight nine ten"]
    assert caption_metrics(texts, [[text] for text in texts]).cider_d == pytest.approx(1000.0)


def test_one_sample_has_no_idf_so_cider_d_is_zero_but_the_rest_is_not() -> None:
    scores = caption_metrics(["one two three four"], [["one two three four"]])
    assert (scores.cider_d, scores.bleu_4, scores.rouge_l) == pytest.approx((0.0, 100.0, 100.0))


def test_bleu_4_by_hand() -> None:
    # Precisions 5/6, 3/5, 2/4, 1/3; equal lengths.
    scores = caption_metrics(["the cat sat on the mat", "w"], [["the cat sat on a mat"], ["w"]])
    clipped = (6 / 7, 3 / 5, 2 / 4, 1 / 3)  # corpus counts: the second sample adds one matching 1-gram of one
    assert scores.bleu_4 == pytest.approx(100 * math.prod(clipped) ** 0.25)


def test_bleu_4_punishes_brevity_against_the_closest_reference() -> None:
    scores = caption_metrics(["a b c d"], [["a b c d e", "a b c d e f g h"]])
    assert scores.bleu_4 == pytest.approx(100 * math.exp(1 - 5 / 4))


def test_bleu_4_allows_a_different_number_of_references() -> None:
    # A missing reference must not pass for an empty one, whose length 0 would be closest to a short caption's.
    scores = caption_metrics(["a b c d", "e f g h"], [["a b c d e f g h i j k l"], ["e f g h", "x"]])
    assert scores.bleu_4 == pytest.approx(100 * math.exp(1 - 16 / 8))


def test_bleu_4_is_not_smoothed() -> None:
    assert caption_metrics(["a b c x"], [["a b c d"]]).bleu_4 == 0.0


def test_rouge_l_by_hand_takes_the_best_reference() -> None:
    # Longest common subsequence of 5 words of 6 and 6: F1 = 5/6.
    scores = caption_metrics(["the cat sat on the mat"], [["nothing here", "the cat sat on a mat"]])
    assert scores.rouge_l == pytest.approx(100 * 5 / 6)


def test_rouge_l_sees_words_that_are_not_ascii() -> None:
    assert caption_metrics(["ähnlich"], [["ähnlich"]]).rouge_l == pytest.approx(100.0)
    assert caption_metrics(["ähnlich"], [["hnlich"]]).rouge_l == 0.0


def test_empty_captions_score_zero() -> None:
    scores = caption_metrics(["", "..."], [["a b c d"], ["e f g h"]])
    assert (scores.cider_d, scores.bleu_4, scores.rouge_l) == (0.0, 0.0, 0.0)
    assert scores.cider_d_per_sample.shape == (2,)


def test_case_and_punctuation_do_not_count() -> None:
    plain = caption_metrics(["a red dog runs", "x"], [["a red dog runs"], ["y"]])
    typed = caption_metrics(["A red dog, runs!", "x"], [["a red dog runs ."], ["y"]])
    assert (plain.cider_d, plain.bleu_4, plain.rouge_l) == (typed.cider_d, typed.bleu_4, typed.rouge_l)
    assert np.array_equal(plain.cider_d_per_sample, typed.cider_d_per_sample)


def test_order_of_samples_does_not_matter() -> None:
    captions, references = ["a b", "c d e", "f"], [["a b"], ["c d"], ["f g"]]
    forward, backward = caption_metrics(captions, references), caption_metrics(captions[::-1], references[::-1])
    assert forward.cider_d_per_sample == pytest.approx(backward.cider_d_per_sample[::-1])


@pytest.mark.parametrize(
    ("captions", "references", "message"),
    [
        ([], [], "at least one sample, got none"),
        (["a"], [["a"], ["b"]], "one caption a sample, got 1 for 2"),
        (["a"], ["a"], "sequence of sequences of strings"),
        ("a", [["a"]], "sequence of strings"),
        (["a", "b"], [["a"], []], r"references\[1\] is \[\]"),
        (["a"], [["..."]], r"references\[0\] is \['\.\.\.'\]; at least one must contain a word"),
    ],
)
def test_unusable_input_is_refused(captions: list[str], references: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        caption_metrics(captions, references)


def test_bleu_1_to_3_by_hand() -> None:
    # One sample; clipped precisions 5/6, 3/5, 2/4, equal lengths: geometric means of the first one, two and three.
    scores = caption_metrics(["the cat sat on the mat"], [["the cat sat on a mat"]])
    assert scores.bleu_1 == pytest.approx(100 * 5 / 6)
    assert scores.bleu_2 == pytest.approx(100 * (5 / 6 * 3 / 5) ** (1 / 2))
    assert scores.bleu_3 == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4) ** (1 / 3))


def test_shorter_bleu_counts_where_no_four_words_agree() -> None:
    scores = caption_metrics(["a b x y"], [["a b c d"]])
    assert scores.bleu_1 == pytest.approx(50.0)
    assert scores.bleu_2 == pytest.approx(100 * (1 / 2 * 1 / 3) ** (1 / 2))
    assert (scores.bleu_3, scores.bleu_4) == (0.0, 0.0)


def test_meteor_by_hand() -> None:
    # Five of six words match, in one chunk of four and one of one: "sits" and "sit" by their stem.
    # P = R = Fmean = 5/6; penalty 0.5 * (2/5)^3.
    scores = caption_metrics(["a cat sits on the mat"], [["nothing", "a cat sit on one mat"]])
    assert scores.meteor_exact_stem == pytest.approx(100 * 5 / 6 * (1 - 0.5 * (2 / 5) ** 3))


def test_meteor_knows_no_synonyms() -> None:
    assert caption_metrics(["car"], [["automobile"]]).meteor_exact_stem == 0.0
    assert caption_metrics(["cars"], [["car"]]).meteor_exact_stem == pytest.approx(50.0)  # one chunk of one word


def test_a_reference_set_scores_as_if_it_were_new(texts: Texts) -> None:
    candidates, references = texts
    prepared = ReferenceSet(references)
    for order in range(3):
        captions = candidates[order:] + candidates[:order]
        kept, fresh = prepared.score(captions), caption_metrics(captions, references)
        for name in TEXT_METRICS:
            assert getattr(kept, name) == getattr(fresh, name)
        assert np.array_equal(kept.cider_d_per_sample, fresh.cider_d_per_sample)
    assert len(prepared) == len(references)


def _letters(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """An encoder of texts: how often each of four letters occurs."""
    return np.array([[text.lower().count(letter) for letter in "abcd"] for text in texts], dtype=np.float32)


def test_retrieval_finds_the_nearest_first_reference() -> None:
    references = ReferenceSet([["a"], ["b", "c c c"], ["c"], ["d"], ["a b"], ["c d"], ["a c"]], embed=_letters)
    scores = references.score(["a", "b", "c", "d", "a b", "c d", "a c"])
    assert (scores.recall_at_1, scores.recall_at_5) == (100.0, 100.0)
    scores = references.score(["a", "c", "c", "a", "a b", "c d", ""])
    assert scores.recall_at_1 == pytest.approx(100 * 4 / 7)
    # "c" is nearer to all three with a c than to "b", its own; to it, and to the three others, it says nothing.
    assert scores.recall_at_5 == pytest.approx(100 * 4 / 7)
    scores = references.score(["a", "b", "c", "a d", "a b", "c d", "b b c"])
    assert scores.recall_at_1 == pytest.approx(100 * 5 / 7)
    assert scores.recall_at_5 == pytest.approx(100 * 7 / 7)


def test_no_encoder_no_retrieval() -> None:
    scores = caption_metrics(["a"], [["a"]])
    assert scores.recall_at_1 is None and scores.recall_at_5 is None
    assert ReferenceSet([["a"], ["b"]], embed=_letters).score(["", "..."]).recall_at_1 == 0.0

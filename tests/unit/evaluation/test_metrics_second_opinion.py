"""Caption metrics against other implementations: COCO's scorers, NLTK's BLEU, and the papers' formulas."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from pipeline.evaluation.metrics import caption_metrics
from tests.unit.evaluation.conftest import Texts


def test_cider_d_agrees_with_coco(texts: Texts) -> None:
    candidates, references = texts
    scorer = CiderScorer(n=4, sigma=6.0)
    for candidate, targets in zip(candidates, references, strict=True):
        scorer += (candidate, targets)
    _, expected = scorer.compute_score()
    found = caption_metrics(candidates, references).cider_d_per_sample
    assert found == pytest.approx(100 * expected, rel=1e-9)
    assert found.std() > 1


def test_cider_d_agrees_with_the_papers_formula(texts: Texts) -> None:
    """Vedantam et al. 2015, equations 1, 2 and of section "CIDEr-D": vectors over the whole vocabulary of n-grams."""
    candidates, references = texts
    expected = np.zeros(len(candidates))
    for order in range(1, 5):

        def ngrams(text: str, order: int = order) -> Counter[tuple[str, ...]]:
            words = text.split()
            return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))

        everything = [*candidates, *(text for targets in references for text in targets)]
        vocabulary = sorted(set().union(*map(ngrams, everything)))
        document_frequency = np.array(
            [sum(any(word in ngrams(text) for text in targets) for targets in references) for word in vocabulary]
        )
        idf = math.log(len(references)) - np.log(np.maximum(document_frequency, 1))

        def vector(text: str, vocabulary=vocabulary, idf=idf, ngrams=ngrams) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
            counts = ngrams(text)
            return np.array([counts[word] for word in vocabulary]) * idf

        for index, (candidate, targets) in enumerate(zip(candidates, references, strict=True)):
            for target in targets:
                ours, theirs = vector(candidate), vector(target)
                norm = np.linalg.norm(ours) * np.linalg.norm(theirs)
                gap = len(candidate.split()) - len(target.split())
                penalty = math.exp(-(gap**2) / (2 * 6.0**2))
                cosine = np.minimum(ours, theirs) @ theirs / norm if norm else 0.0
                expected[index] += 10.0 * penalty * cosine / 4 / len(targets)
    assert caption_metrics(candidates, references).cider_d_per_sample == pytest.approx(100 * expected, rel=1e-9)


def test_bleu_agrees_with_nltk(texts: Texts) -> None:
    # Of a text of two words NLTK counts one 3-gram, which is wrong, where there are none.
    long = [number for number, candidate in enumerate(texts[0]) if len(candidate.split()) >= 4]
    candidates, references = [texts[0][number] for number in long], [texts[1][number] for number in long]
    scores = caption_metrics(candidates, references)
    hypotheses = [candidate.split() for candidate in candidates]
    targets = [[text.split() for text in texts] for texts in references]
    for order, found in enumerate((scores.bleu_1, scores.bleu_2, scores.bleu_3, scores.bleu_4), start=1):
        weights = (1 / order,) * order
        assert found == pytest.approx(100 * corpus_bleu(targets, hypotheses, weights=weights))
        assert found > 0


def test_rouge_l_of_one_reference_agrees_with_coco_where_precision_is_recall(texts: Texts) -> None:
    """COCO weighs recall by 1.2; at equal lengths precision, recall and any mean of them are the same."""
    candidates, references = texts
    pairs = [
        (candidate, targets[0])
        for candidate, targets in zip(candidates, references, strict=True)
        if len(candidate.split()) == len(targets[0].split())
    ]
    assert len(pairs) > 5
    rouge = Rouge()
    for candidate, target in pairs:
        found = caption_metrics([candidate], [[target]]).rouge_l
        assert found == pytest.approx(100 * rouge.calc_score([candidate], [target]))


def test_rouge_l_is_an_f1_of_cocos_precision_and_recall(texts: Texts) -> None:
    candidates, references = texts
    expected = []
    for candidate, targets in zip(candidates, references, strict=True):
        words = candidate.split()
        f1s = []
        for text in targets:
            other = text.split()
            common = _longest_common(words, other)
            f1s.append(2 * common / (len(words) + len(other)))
        expected.append(max(f1s))
    assert caption_metrics(candidates, references).rouge_l == pytest.approx(100 * np.mean(expected))


def _longest_common(ours: list[str], theirs: list[str]) -> int:
    if not ours or not theirs:
        return 0
    if ours[-1] == theirs[-1]:
        return 1 + _longest_common(ours[:-1], theirs[:-1])
    return max(_longest_common(ours[:-1], theirs), _longest_common(ours, theirs[:-1]))

"""Caption metrics by kept pure-Python libraries (no Java).

In: one candidate caption a sample and its reference captions.  Out: CIDEr-D, BLEU-4 and ROUGE-L, all on the
x100 scale that papers print.

Tokens: lower case; a token is a run of word characters, inner hyphens and apostrophes included, or a decimal
number; every other sign is dropped, as COCO's evaluation drops punctuation.  The same tokens go to all metrics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|\w+(?:[-'’]\w+)*")
_PERCENT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionScores:
    """Scores of one set of captions, x100."""

    cider_d: float
    """Mean of `cider_d_per_sample`."""
    bleu_4: float
    """Corpus BLEU-4, unsmoothed: 0 where no candidate shares four consecutive tokens with a reference."""
    rouge_l: float
    """Mean over samples of the best ROUGE-L F1 among the references."""
    cider_d_per_sample: npt.NDArray[np.float64]
    """`[n]`, for bootstrap intervals; the idf stays that of the whole set."""


def tokenize(text: str) -> list[str]:
    """Tokens of `text` as every metric here sees them."""
    return _TOKEN.findall(text.lower())


def caption_metrics(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score `candidates[i]` against all of `references[i]`.

    CIDEr-D (clipped counts, Gaussian length penalty with sigma 6) takes its idf from these references, so its
    value belongs to this test set.  Perfect captions score 1000 where they hold 4-grams that are not in every
    sample's references; a set of one sample has idf 0 everywhere and scores 0, whatever the caption.
    Empty candidates are legal and score 0.
    """
    _check(candidates, references)
    candidate_tokens = [tokenize(text) for text in candidates]
    reference_tokens = [[tokenize(text) for text in texts] for texts in references]
    for index, texts in enumerate(reference_tokens):
        if not any(texts):
            raise ValueError(f"references[{index}] is {references[index]!r}; at least one must contain a word")
    hypotheses = [" ".join(tokens) for tokens in candidate_tokens]
    targets = [[" ".join(tokens) for tokens in texts] for texts in reference_tokens]
    cider = _cider_d(hypotheses, targets)
    return CaptionScores(
        cider_d=float(cider.mean()),
        bleu_4=_bleu_4(hypotheses, targets),
        rouge_l=_rouge_l(hypotheses, targets),
        cider_d_per_sample=cider,
    )


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if isinstance(candidates, str) or any(isinstance(texts, str) for texts in references):
        raise ValueError("candidates must be a sequence of strings and references a sequence of sequences of strings")
    if not candidates or len(candidates) != len(references):
        raise ValueError(f"need one non-empty list of references a candidate, got {len(candidates)}, {len(references)}")


def _cider_d(hypotheses: list[str], targets: list[list[str]]) -> npt.NDArray[np.float64]:
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    scorer = CiderScorer(n=4, sigma=6.0)
    for hypothesis, texts in zip(hypotheses, targets, strict=True):
        scorer += (hypothesis, texts)
    _, scores = scorer.compute_score()
    return np.asarray(scores, dtype=np.float64) * _PERCENT


def _bleu_4(hypotheses: list[str], targets: list[list[str]]) -> float:
    from sacrebleu.metrics.bleu import BLEU

    # The texts are tokens already: no second tokeniser, and `force` because sacrebleu would warn of that.
    bleu = BLEU(lowercase=False, force=True, tokenize="none", smooth_method="none", effective_order=False)
    widest = max(len(texts) for texts in targets)
    # None, not "": an empty reference would count when the brevity penalty looks for the closest length.
    streams: list[list[Any]] = [[texts[k] if k < len(texts) else None for texts in targets] for k in range(widest)]
    return float(bleu.corpus_score(hypotheses, streams).score)


def _rouge_l(hypotheses: list[str], targets: list[list[str]]) -> float:
    scorer = _rouge_scorer()
    scores = [
        scorer.score_multi(texts, hypothesis)["rougeL"].fmeasure
        for hypothesis, texts in zip(hypotheses, targets, strict=True)
    ]
    return float(np.mean(scores)) * _PERCENT


class _Tokens:
    """Gives `rouge_score` the tokens made here, in place of its ASCII-only tokeniser."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: 2 s, so only where it is used

    return RougeScorer(["rougeL"], tokenizer=_Tokens())

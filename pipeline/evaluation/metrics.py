"""Caption metrics by kept pure-Python libraries (no Java).

In: one candidate caption a sample and its reference captions.  Out: CIDEr-D, BLEU-1 to BLEU-4, ROUGE-L and METEOR, and
with a text encoder retrieval recall, all on the x100 scale that papers print.

Tokens: lower case; a token is a run of word characters, inner hyphens and apostrophes included, or a decimal
number; every other sign is dropped, as COCO's evaluation drops punctuation.  The same tokens go to all metrics.

METEOR is that of NLTK (Lavie and Agarwal 2007) without its third stage, the synonyms of WordNet, which would be a
download: words match exactly or by their Porter stem.  Its name says so; do not compare it with METEOR of papers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.cider import CiderReferences
from pipeline.evaluation.retrieval import retrieval_ranks

_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|\w+(?:[-'’]\w+)*")
_PERCENT = 100.0
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Texts -> embeddings `[n, width]`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionScores:
    """Scores of one set of captions, x100."""

    cider_d: float
    """Mean of `cider_d_per_sample`."""
    bleu_1: float
    """Corpus BLEU, unsmoothed: BLEU-n is 0 where no candidate shares n consecutive tokens with a reference."""
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    """Mean over samples of the best ROUGE-L F1 among the references."""
    meteor_exact_stem: float
    """Mean over samples of the best METEOR among the references, by exact and stem matches only."""
    recall_at_1: float | None
    """Share of the captions whose nearest reference, by text embedding, is their own; None where nothing embeds."""
    recall_at_5: float | None
    """The same of the five nearest ones."""
    cider_d_per_sample: npt.NDArray[np.float64]
    """`[n]`, for bootstrap intervals; the idf stays that of the whole set."""


def tokenize(text: str) -> list[str]:
    """Tokens of `text` as every metric here sees them."""
    return _TOKEN.findall(text.lower())


class ReferenceSet:
    """The references of a test set, prepared once for all methods that are scored on it."""

    def __init__(self, references: Sequence[Sequence[str]], *, embed: Embed | None = None) -> None:
        """References of each sample; at least one of a sample must hold a word.

        `embed`: text embeddings, for retrieval among the samples' first references.
        """
        if any(isinstance(texts, str) for texts in references):
            raise ValueError("references must be a sequence of sequences of strings")
        if not references:
            raise ValueError("need references of at least one sample, got none")
        self.texts: tuple[tuple[str, ...], ...] = tuple(tuple(texts) for texts in references)
        """As they were given."""
        self._tokens = [[tokenize(text) for text in texts] for texts in self.texts]
        for index, texts in enumerate(self._tokens):
            if not any(texts):
                raise ValueError(f"references[{index}] is {references[index]!r}; at least one must contain a word")
        self._targets = [[" ".join(tokens) for tokens in texts] for texts in self._tokens]
        self._cider = CiderReferences(self._tokens)
        self._bleu = _bleu_scorer(self._targets)
        self._embed = embed
        self._embedded = None if embed is None else embed([texts[0] for texts in self.texts])

    def __len__(self) -> int:
        return len(self.texts)

    def score(self, candidates: Sequence[str]) -> CaptionScores:
        """Score `candidates[i]` against all references of sample i.

        CIDEr-D (clipped counts, Gaussian length penalty with sigma 6) takes its idf from these references, so its
        value belongs to this test set.  Perfect captions score 1000 where they hold 4-grams that are not in every
        sample's references; a set of one sample has idf 0 everywhere and scores 0, whatever the caption.
        Empty candidates are legal and score 0.
        """
        if isinstance(candidates, str):
            raise ValueError("candidates must be a sequence of strings")
        if len(candidates) != len(self):
            raise ValueError(f"need one caption a sample, got {len(candidates)} for {len(self)}")
        tokens = [tokenize(text) for text in candidates]
        hypotheses = [" ".join(words) for words in tokens]
        cider = self._cider.score(tokens) * _PERCENT
        bleu_1, bleu_2, bleu_3, bleu_4 = self._bleu_scores(hypotheses)
        recall_at_1, recall_at_5 = self._recall(candidates, [bool(words) for words in tokens])
        return CaptionScores(
            cider_d=float(cider.mean()),
            bleu_1=bleu_1,
            bleu_2=bleu_2,
            bleu_3=bleu_3,
            bleu_4=bleu_4,
            rouge_l=_rouge_l(hypotheses, self._targets),
            meteor_exact_stem=_meteor(tokens, self._tokens),
            recall_at_1=recall_at_1,
            recall_at_5=recall_at_5,
            cider_d_per_sample=cider,
        )

    def _recall(self, candidates: Sequence[str], says_something: list[bool]) -> tuple[float | None, float | None]:
        if self._embed is None or self._embedded is None:
            return None, None
        queries = np.zeros_like(self._embedded)  # what has no words finds nothing
        if any(says_something):
            spoken = [text for text, something in zip(candidates, says_something, strict=True) if something]
            queries[np.array(says_something)] = self._embed(spoken)
        ranks = retrieval_ranks(queries, self._embedded)
        return _PERCENT * float((ranks <= 1).mean()), _PERCENT * float((ranks <= 5).mean())

    def _bleu_scores(self, hypotheses: list[str]) -> list[float]:
        score = self._bleu.corpus_score(hypotheses, None)
        with np.errstate(divide="ignore"):
            logs = np.log(np.asarray(score.precisions) / _PERCENT)
        return [float(score.bp * np.exp(logs[:order].mean()) * _PERCENT) for order in range(1, 5)]


def caption_metrics(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score `candidates[i]` against all of `references[i]`; see `ReferenceSet.score`."""
    return ReferenceSet(references).score(candidates)


def _bleu_scorer(targets: list[list[str]]) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    widest = max(len(texts) for texts in targets)
    # None, not "": an empty reference would count when the brevity penalty looks for the closest length.
    streams: list[list[Any]] = [[texts[k] if k < len(texts) else None for texts in targets] for k in range(widest)]
    # The texts are tokens already: no second tokeniser, and `force` because sacrebleu would warn of that.
    return BLEU(
        lowercase=False, force=True, tokenize="none", smooth_method="none", effective_order=False, references=streams
    )


def _rouge_l(hypotheses: list[str], targets: list[list[str]]) -> float:
    scorer = _rouge_scorer()
    scores = [
        scorer.score_multi(texts, hypothesis)["rougeL"].fmeasure
        for hypothesis, texts in zip(hypotheses, targets, strict=True)
    ]
    return float(np.mean(scores)) * _PERCENT


def _meteor(hypotheses: list[list[str]], targets: list[list[list[str]]]) -> float:
    from nltk.translate.meteor_score import meteor_score

    scores = [
        meteor_score(texts, hypothesis, stemmer=_stemmer(), wordnet=_NoSynonyms())
        for hypothesis, texts in zip(hypotheses, targets, strict=True)
    ]
    return float(np.mean(scores)) * _PERCENT


class _NoSynonyms:
    """Stands where NLTK would read WordNet."""

    def synsets(self, word: str) -> list[Any]:
        return []


class _CachedStemmer:
    """Porter stems, each word's once: captions of a test set use few words."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stem = cache(PorterStemmer().stem)


@cache
def _stemmer() -> _CachedStemmer:
    return _CachedStemmer()


class _Tokens:
    """Gives `rouge_score` the tokens made here, in place of its ASCII-only tokeniser."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: 2 s, so only where it is used

    return RougeScorer(["rougeL"], tokenizer=_Tokens())

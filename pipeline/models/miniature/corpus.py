"""Text that the miniature suite's language model and text encoders are trained on.

In: the attribute grammars and a random generator.  Out: documents and groups of captions, never a signal.

The held-out domains' language is included, as it is in the corpus of a real model; which caption belongs to which
signal is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.miniature.grammar import GRAMMARS, Grammar

PROMPT = "describe :"
ANSWER = "caption :"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What the language model reads, and what it learns to say after it."""

    read: str
    """Given; empty for plain text."""
    say: str
    """Predicted."""


def corpus_words() -> list[str]:
    """Every word of every grammar, sorted, with the words of the prompt."""
    words = set(f"{PROMPT} {ANSWER}".split())
    for grammar in GRAMMARS.values():
        for template in grammar.templates:
            words.update(word for word in template.split() if not word.startswith("{"))
        words.update(word for attribute in grammar.attributes for value in attribute.values for word in value.split())
    return sorted(words)


def caption_sample(count_per_domain: int, rng: np.random.Generator) -> list[str]:
    """Captions of every domain in turn."""
    return [g.caption(g.sample(rng), rng) for g in GRAMMARS.values() for _ in range(count_per_domain)]


def documents(count: int, rng: np.random.Generator) -> list[Document]:
    """A mixture of plain captions and instructions whose facts steer the caption."""
    names = tuple(GRAMMARS)
    return [_document(GRAMMARS[names[int(rng.integers(len(names)))]], rng) for _ in range(count)]


def _document(grammar: Grammar, rng: np.random.Generator) -> Document:
    values = grammar.sample(rng)
    caption = grammar.caption(values, rng)
    form = rng.random()
    if form < 0.1:
        return Document(read="", say=caption)
    if form < 0.7:
        facts = " ".join(rng.permutation(list(values.values())))
    elif form < 0.85:
        kept = rng.choice(list(values.values()), size=int(rng.integers(1, len(values))), replace=False)
        facts = " ".join(kept)
    else:
        facts = grammar.caption(values, rng).rstrip(".")
    return Document(read=f"{PROMPT} {facts} {ANSWER}", say=caption)


def instruction(values: dict[str, str], rng: np.random.Generator) -> str:
    """The prompt that states all values, in random order."""
    return f"{PROMPT} {' '.join(rng.permutation(list(values.values())))} {ANSWER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParaphraseBatch:
    """Pairs of captions that say the same; some pairs differ from another in one attribute only."""

    first: list[str]
    """One caption a pair."""
    second: list[str]
    """Its paraphrase, by another template."""
    meaning: list[str]
    """Equal where two pairs say the same."""


def paraphrase_batch(pairs: int, variants: int, rng: np.random.Generator) -> ParaphraseBatch:
    """`pairs` pairs; groups of `variants` share all values but one, which makes them hard to tell apart."""
    names = tuple(GRAMMARS)
    first: list[str] = []
    second: list[str] = []
    meaning: list[str] = []
    while len(first) < pairs:
        grammar = GRAMMARS[names[int(rng.integers(len(names)))]]
        values = grammar.sample(rng)
        for values_of_pair in [values, *(_one_changed(grammar, values, rng) for _ in range(variants - 1))]:
            one, other = grammar.paraphrases(values_of_pair, rng)
            first.append(one)
            second.append(other)
            meaning.append("|".join((grammar.name, *values_of_pair.values())))
    return ParaphraseBatch(first=first[:pairs], second=second[:pairs], meaning=meaning[:pairs])


def _one_changed(grammar: Grammar, values: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    attribute = grammar.attributes[int(rng.integers(len(grammar.attributes)))]
    others = [value for value in attribute.values if value != values[attribute.name]]
    return {**values, attribute.name: others[int(rng.integers(len(others)))]}

"""Attribute grammars: what each domain can say about a sample, and how a caption says it.

In: a random generator.  Out: attribute values, captions that hold every value verbatim exactly once, and the
values parsed back from any text.  The words themselves are in `pipeline.data.miniature.vocabulary`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np

from pipeline.data.miniature import vocabulary

MIN_TEMPLATES = 4
CAPTION_WORDS = (10, 20)
"""Fewest and most words of a caption."""

_CAPTION_CHARACTERS = re.compile(r"[a-z ]+")


def contains_phrase(text: str, phrase: str) -> bool:
    """Whether `phrase` occurs in `text` between word boundaries."""
    return re.search(rf"\b{re.escape(phrase)}\b", text) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """One thing that a caption tells, with the phrases it can take (in order of magnitude where there is one)."""

    name: str
    """Column name of the attribute."""
    values: tuple[str, ...]
    """Phrases; lower case, words separated by one space."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grammar:
    """Attributes of a domain and the sentence templates that carry them.

    Checked when built: each template names every attribute once, and no phrase occurs (between word boundaries) in
    a template's own words or in another phrase.  Finding a value in a caption is therefore unambiguous.
    """

    name: str
    """Name of the domain, the same as its modality's."""
    attributes: tuple[Attribute, ...]
    """Attributes in a fixed order."""
    templates: tuple[str, ...]
    """Sentences with one `{attribute}` field for every attribute, without the full stop."""

    def __post_init__(self) -> None:
        self._check_values()
        if len(set(self.templates)) < MIN_TEMPLATES:
            raise ValueError(f"grammar {self.name!r} has {len(self.templates)} templates, needs >= {MIN_TEMPLATES}")
        for template in self.templates:
            self._check_template(template)

    def _check_values(self) -> None:
        values = [value for attribute in self.attributes for value in attribute.values]
        for value in values:
            if not _CAPTION_CHARACTERS.fullmatch(value) or value != " ".join(value.split()):
                raise ValueError(f"grammar {self.name!r}: value {value!r} is not lower-case words")
            if sum(contains_phrase(other, value) for other in values) != 1:
                raise ValueError(f"grammar {self.name!r}: value {value!r} also occurs in another value")

    def _check_template(self, template: str) -> None:
        parts = list(Formatter().parse(template))
        fields = sorted(field for _, field, _, _ in parts if field is not None)
        if fields != sorted(self.attribute_names):
            raise ValueError(f"grammar {self.name!r}: template {template!r} must use once each {self.attribute_names}")
        # A field stands as a bar, so that words on its two sides do not run together into a phrase.
        words = "|".join(literal for literal, _, _, _ in parts)
        if not _CAPTION_CHARACTERS.fullmatch(words.replace("|", "")):
            raise ValueError(f"grammar {self.name!r}: template {template!r} is not lower-case words")
        for attribute in self.attributes:
            for value in attribute.values:
                if contains_phrase(words, value):
                    raise ValueError(f"grammar {self.name!r}: value {value!r} occurs in template {template!r}")

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the attributes, in order."""
        return tuple(attribute.name for attribute in self.attributes)

    def values(self, attribute: str) -> tuple[str, ...]:
        """Phrases of one attribute, in order."""
        for candidate in self.attributes:
            if candidate.name == attribute:
                return candidate.values
        raise ValueError(f"grammar {self.name!r} has no attribute {attribute!r}; it has {list(self.attribute_names)}")

    def level(self, attribute: str, value: str) -> int:
        """Index of a value among the attribute's phrases: what a generator renders."""
        return self.values(attribute).index(value)

    def sample(self, rng: np.random.Generator) -> dict[str, str]:
        """One value for every attribute, uniform and independent."""
        return {a.name: a.values[int(rng.integers(len(a.values)))] for a in self.attributes}

    def caption(self, values: Mapping[str, str], rng: np.random.Generator) -> str:
        """A sentence that tells the values, by a template drawn uniformly."""
        return self.render(values, int(rng.integers(len(self.templates))))

    def render(self, values: Mapping[str, str], template: int) -> str:
        """The sentence of one template."""
        return f"{self.templates[template].format_map(values)}."

    def paraphrases(self, values: Mapping[str, str], rng: np.random.Generator) -> tuple[str, str]:
        """Two sentences of different templates that tell the same values."""
        first, second = rng.choice(len(self.templates), size=2, replace=False)
        return self.render(values, int(first)), self.render(values, int(second))

    def parse(self, text: str) -> dict[str, str]:
        """Values told by a text: an attribute is present where exactly one of its phrases is found."""
        found: dict[str, str] = {}
        for attribute in self.attributes:
            hits = [value for value in attribute.values if contains_phrase(text, value)]
            if len(hits) == 1:
                found[attribute.name] = hits[0]
        return found


def paraphrase_pairs(grammar: Grammar, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """`count` pairs of captions; the two of a pair tell the same values in different words."""
    return [grammar.paraphrases(grammar.sample(rng), rng) for _ in range(count)]


def _grammar(name: str, attributes: Mapping[str, Sequence[str]], templates: Sequence[str]) -> Grammar:
    return Grammar(
        name=name,
        attributes=tuple(Attribute(name=key, values=tuple(values)) for key, values in attributes.items()),
        templates=tuple(templates),
    )


GRAMMARS: dict[str, Grammar] = {
    name: _grammar(name, attributes, templates) for name, (attributes, templates) in vocabulary.DOMAINS.items()
}
"""The grammar of every domain of the suite, by name."""

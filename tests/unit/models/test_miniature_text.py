"""The suite's language model says what its prompt states; its text encoders tell meanings apart, not wordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.config.presets import PRESETS
from pipeline.config.schema import EncoderConfig
from pipeline.data.miniature.grammar import GRAMMARS, Grammar
from pipeline.encoders.registry import load_encoder
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.miniature.corpus import Document, corpus_words, documents, paraphrase_batch
from pipeline.models.miniature.language_model import steering_accuracy
from pipeline.models.miniature.tokenizer import smiles_tokenizer, word_tokenizer
from pipeline.signal import Signal


@pytest.mark.slow
def test_the_language_model_repeats_the_values_of_its_prompt(root: Path) -> None:
    llm = FrozenLLM(PRESETS["miniature"]().llm, root)
    scores = steering_accuracy(llm.model, llm.tokenizer, samples=8, seed=2)
    assert set(scores) == set(GRAMMARS)
    assert np.mean(list(scores.values())) >= 0.97


@pytest.mark.parametrize("name", ["text-a", "text-b"])
def test_paraphrases_are_nearest_and_one_changed_value_is_told(name: str, root: Path) -> None:
    config = EncoderConfig(name=name, path=f"pipeline/models/miniature/weights/{name}")
    encoder = load_encoder(config, "text", root)
    batch = paraphrase_batch(60, 4, np.random.default_rng(8))
    first, second = (
        encoder.encode([Signal(kind="text", text=text) for text in texts]) for texts in (batch.first, batch.second)
    )
    first, second = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (first, second))
    cosines = first @ second.T
    assert np.diag(cosines).mean() > 0.95
    same = np.array([[a == b for b in batch.meaning] for a in batch.meaning])
    assert same[np.arange(60), cosines.argmax(axis=1)].mean() > 0.95


def test_documents_state_facts_that_their_captions_tell() -> None:
    docs = documents(300, np.random.default_rng(0))
    plain = [doc for doc in docs if not doc.read]
    assert 10 < len(plain) < 60
    for doc in docs:
        grammar = _grammar_of(doc)
        stated = grammar.parse(doc.read.removeprefix("describe : ").removesuffix(" caption :"))
        told = grammar.parse(doc.say)
        assert set(told) == set(grammar.attribute_names)
        assert stated.items() <= told.items()


def _grammar_of(doc: Document) -> Grammar:
    (grammar,) = [g for g in GRAMMARS.values() if set(g.parse(doc.say)) == set(g.attribute_names)]
    return grammar


def test_known_words_are_one_token_and_any_text_survives() -> None:
    tokenizer = word_tokenizer(corpus_words())
    for caption in ("a tiny red circle lies at the top left of the picture among three white dots.",):
        ids = tokenizer(caption, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(caption.split()) + 1
        assert tokenizer.decode(ids) == caption
    other = tokenizer("Zebra 42!", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in other


def test_smiles_are_read_atom_by_atom() -> None:
    tokens = smiles_tokenizer().tokenize("C[C@@H](Br)c1cc(Cl)ccc1[nH]")
    assert tokens[:8] == ["C", "[", "C", "@@", "H", "]", "(", "Br"]
    assert "Cl" in tokens
    assert "<unk>" not in tokens

"""Tokenizers of the miniature suite's text models.

In: words, or captions.  Out: a `PreTrainedTokenizerFast` with distinct padding, start, end and unknown tokens.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, START, END, UNKNOWN = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation


def word_tokenizer(words: Sequence[str]) -> Any:
    """One token a known word; any other word is spelt out, character by character."""
    spelling = [*_CHARACTERS, *(f"##{character}" for character in _CHARACTERS)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*SPECIAL, *words, *spelling]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=64))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return _finished(tokenizer, max_tokens=128)


def subword_tokenizer(captions: Sequence[str], *, vocabulary_size: int) -> Any:
    """Byte-pair encoding learnt from captions; lower-cases."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=list(string.ascii_lowercase + string.digits + string.punctuation),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return _finished(tokenizer, max_tokens=128)


def smiles_tokenizer() -> Any:
    """One token an atom, bond, ring closure or bracketed atom of a SMILES string."""
    atoms = ("Cl", "Br", "B", "C", "N", "O", "P", "S", "F", "I", "H", "b", "c", "n", "o", "p", "s", "se", "@", "@@")
    marks = (*"()[]=#+-/\\.%:~*", *string.digits)
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *atoms, *marks])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"Cl|Br|se|@@|."), behavior="isolated")
    return _finished(tokenizer, max_tokens=160)


def _finished(tokenizer: Tokenizer, *, max_tokens: int) -> Any:
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=max_tokens,
        padding_side="right",
    )

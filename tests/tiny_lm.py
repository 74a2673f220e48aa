"""A tiny random causal LM, saved and loaded like any user's model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.config.schema import LLMConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.packing import Packing

WORDS = (
    *("describe", ":", "caption", "a", "red", "blue", "green", "circle", "square"),
    *("on", "the", "left", "right", ".", "small", "large"),
)


def save_tiny_lm(directory: Path, *, pad_token: str | None = "<pad>", layers: int = 2) -> None:
    """A tiny Llama over a dozen words."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=pad_token
    )
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
        initializer_range=0.3,  # with the usual 0.02 the logits would hardly depend on anything
    )
    LlamaForCausalLM(config).save_pretrained(directory)


@pytest.fixture(scope="session")
def tiny_lm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny_lm")
    save_tiny_lm(directory)
    return directory


@pytest.fixture
def llm(tiny_lm_dir: Path) -> FrozenLLM:
    return FrozenLLM(LLMConfig(path=str(tiny_lm_dir), max_caption_tokens=12), tiny_lm_dir)


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Packing]:
    """Packed rows go a GPU's way on the CPU too; returns what has gone it."""
    packings: list[Packing] = []
    plain = Packing.of

    def of(*args: Any) -> Packing:
        packings.append(replace(plain(*args), on_cpu=False))
        return packings[-1]

    monkeypatch.setattr(Packing, "of", of)
    return packings

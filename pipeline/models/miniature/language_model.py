"""The miniature suite's causal language model.

In: text of all grammars, drawn with a seed of its own.  Out: a `LlamaForCausalLM` that says in a caption what stands
between `describe :` and `caption :`, as an instruction-tuned model would.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.data.miniature.grammar import GRAMMARS
from pipeline.models.miniature.corpus import Document, corpus_words, documents, instruction
from pipeline.models.miniature.tokenizer import word_tokenizer
from pipeline.models.miniature.training import fit

STEPS = 2600
BATCH = 32
_SEED = 11
_IGNORED = -100


def train_language_model() -> tuple[Any, Any]:
    """The trained model and its tokenizer."""
    tokenizer = word_tokenizer(corpus_words())
    torch.manual_seed(_SEED)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )

    def loss_of_step(step: int) -> Tensor:
        inputs = _batch(documents(BATCH, np.random.default_rng([_SEED, step])), tokenizer)
        loss: Tensor = model(**inputs, use_cache=False).loss
        return loss

    fit([model], loss_of_step, steps=STEPS, learning_rate=3e-3)
    return model.eval(), tokenizer


def _batch(docs: list[Document], tokenizer: Any) -> dict[str, Tensor]:
    """Right-padded ids; only the caption and its end are scored."""
    read = tokenizer([doc.read for doc in docs], add_special_tokens=False)["input_ids"]
    say = tokenizer([doc.say for doc in docs], add_special_tokens=False)["input_ids"]
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = [([start, *given], [*wanted, end]) for given, wanted in zip(read, say, strict=True)]
    length = max(len(given) + len(wanted) for given, wanted in rows)
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), _IGNORED)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for row, (given, wanted) in enumerate(rows):
        end_of_row = len(given) + len(wanted)
        ids[row, :end_of_row] = torch.tensor([*given, *wanted])
        labels[row, len(given) : end_of_row] = torch.tensor(wanted)
        mask[row, :end_of_row] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@torch.no_grad()
def steering_accuracy(model: Any, tokenizer: Any, *, samples: int, seed: int) -> dict[str, float]:
    """Share of attribute values that greedy decoding repeats when the prompt states them, by domain."""
    rng = np.random.default_rng(seed)
    scores: dict[str, float] = {}
    for name, grammar in GRAMMARS.items():
        values = [grammar.sample(rng) for _ in range(samples)]
        said = [_greedy(model, tokenizer, instruction(value, rng)) for value in values]
        hits = [
            grammar.parse(text).get(key) == value
            for text, wanted in zip(said, values, strict=True)
            for key, value in wanted.items()
        ]
        scores[name] = float(np.mean(hits))
    return scores


def _greedy(model: Any, tokenizer: Any, prompt: str) -> str:
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    text: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return text

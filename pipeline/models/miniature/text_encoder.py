"""The miniature suite's text encoders.

In: paraphrases of all grammars, drawn with seeds of their own.  Out: small `BertModel`s whose mean-pooled vectors tell
captions apart that differ in one attribute, and put paraphrases together (InfoNCE with hard negatives).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertModel

from pipeline.models.miniature.corpus import caption_sample, corpus_words, paraphrase_batch
from pipeline.models.miniature.tokenizer import subword_tokenizer, word_tokenizer
from pipeline.models.miniature.training import fit

TEMPERATURE = 0.05
PAIRS = 96
VARIANTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderSpec:
    """How one text encoder is made."""

    width: int
    """Hidden width, and the embedding's."""
    layers: int
    """Transformer layers."""
    tokenizer: Literal["words", "subwords"]
    """Whole words, or byte-pair pieces."""
    seed: int
    """Seed of the weights and of the corpus."""
    steps: int
    """Updates."""


TEXT_ENCODERS = {
    "text-a": TextEncoderSpec(width=128, layers=2, tokenizer="words", seed=21, steps=400),
    "text-b": TextEncoderSpec(width=96, layers=2, tokenizer="subwords", seed=22, steps=250),
}
"""The text encoders by name."""


def train_text_encoder(spec: TextEncoderSpec) -> tuple[Any, Any]:
    """The trained model and its tokenizer."""
    if spec.tokenizer == "words":
        tokenizer = word_tokenizer(corpus_words())
    else:
        tokenizer = subword_tokenizer(caption_sample(500, np.random.default_rng(spec.seed)), vocabulary_size=400)
    torch.manual_seed(spec.seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=4,
        intermediate_size=2 * spec.width,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertModel(config, add_pooling_layer=False)

    def loss_of_step(step: int) -> Tensor:
        batch = paraphrase_batch(PAIRS, VARIANTS, np.random.default_rng([spec.seed, step]))
        vectors = _mean_pooled(model, tokenizer([*batch.first, *batch.second], padding=True, return_tensors="pt"))
        return _info_nce(vectors[:PAIRS], vectors[PAIRS:], batch.meaning)

    fit([model], loss_of_step, steps=spec.steps, learning_rate=1e-3)
    return model.eval(), tokenizer


def _mean_pooled(model: Any, inputs: Any) -> Tensor:
    mask = inputs["attention_mask"][..., None]
    hidden: Tensor = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    return functional.normalize((hidden * mask).sum(dim=1), dim=-1)


def _info_nce(first_ND: Tensor, second_ND: Tensor, meaning: list[str]) -> Tensor:
    """Symmetric InfoNCE; pairs of equal meaning are no negatives of one another."""
    ids = torch.tensor([meaning.index(text) for text in meaning])
    same = (ids[:, None] == ids[None, :]) & ~torch.eye(len(ids), dtype=torch.bool)
    logits = (first_ND @ second_ND.T / TEMPERATURE).masked_fill(same, -torch.inf)
    target = torch.arange(len(ids))
    return 0.5 * (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target))

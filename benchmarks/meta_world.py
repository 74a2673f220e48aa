"""What meta-training is measured on: a random Llama, shards of random vectors, captions of realistic lengths.

In: a `Shape` and a folder.  Out: a `World` that makes tasks, models and engines, all from files written there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.project import WORDS, draw_texts, drawn, text_project
from pipeline.config.schema import EpisodeConfig, HypernetConfig, LLMConfig, LLMExecutionConfig, MetaConfig, OptimConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.hypernet import build_hypernet
from pipeline.models.projector import Projector
from pipeline.models.semi import Semi
from pipeline.shards import EmbeddingDataset
from pipeline.shards.extraction import extract_locally
from pipeline.training.meta import MetaTask
from pipeline.training.sources import SplitRows

OPTIM = OptimConfig(learning_rate=1e-4, steps=10_000)
PROMPTS = {
    # Start token, a few words, a few words.
    "plain": f"{' '.join(WORDS[:4])} {{soft}} {' '.join(WORDS[4:6])}",
    # As many tokens as the chat template of Llama 3.2 makes of a short instruction: system message and user's turn
    # before the soft tokens, the assistant's header behind them.
    "chat": f"{' '.join(WORDS[:33])} {{soft}} {' '.join(WORDS[33:38])}",
}
_MARKS = ("<pad>", "<s>", "</s>", "<unk>")
_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the LLM and of a step."""

    hidden: int
    """LLM width D."""
    layers: int
    """LLM layers."""
    intermediate: int
    """Width of its feed-forward layers."""
    heads: int
    """Attention heads."""
    kv_heads: int
    """Key and value heads."""
    vocabulary: int
    """Vocabulary of its output layer; the captions use the first few hundred words."""
    dtype: str
    """Type of its weights."""
    width: int
    """Encoder, text and hypernetwork width."""
    episodes: int
    """Episodes a step."""
    queries: int
    """Queries an episode."""
    shots: int
    """Support pairs an episode."""
    rank: int = 32
    """Adapter rank."""


SHAPES = {
    # For tests.
    "tiny": Shape(
        hidden=32, layers=2, intermediate=64, heads=2, kv_heads=2, vocabulary=512, dtype="float32", width=16,
        episodes=4, queries=2, shots=8, rank=2,
    ),
    # The miniature suite's LLM.
    "miniature": Shape(
        hidden=128, layers=3, intermediate=256, heads=4, kv_heads=4, vocabulary=512, dtype="float32", width=128,
        episodes=40, queries=4, shots=128, rank=32,
    ),
    # Large enough for arithmetic to outweigh calls on a CPU core, with the paper's episodes (METHOD section 2.2).
    "small": Shape(
        hidden=512, layers=8, intermediate=1408, heads=8, kv_heads=8, vocabulary=16384, dtype="float32", width=768,
        episodes=40, queries=4, shots=128,
    ),
    # Llama-3.2-1B with random weights.
    "llama1b": Shape(
        hidden=2048, layers=16, intermediate=8192, heads=32, kv_heads=8, vocabulary=128256, dtype="bfloat16", width=768,
        episodes=40, queries=4, shots=128,
    ),
}  # fmt: skip


def shape_named(name: str) -> Shape:
    """One of `SHAPES`; `ValueError` names them all."""
    if name not in SHAPES:
        raise ValueError(f"--shape must be one of {', '.join(SHAPES)}, got {name!r}")
    return SHAPES[name]


class World:
    """Files of one shape, and what is made of them."""

    def __init__(
        self,
        folder: Path,
        shape: Shape,
        *,
        prompt: str = "chat",
        device: torch.device | str = "cpu",
        compiled: bool = False,
    ) -> None:
        self.folder, self.shape, self.device = folder, shape, torch.device(device)
        self.execution = LLMExecutionConfig(compile=compiled)
        self.prompt = PROMPTS[prompt]
        if not (folder / "lm").is_dir():
            _save_llm(folder / "lm", shape)
            project = text_project(folder, draw_texts(_ROWS), drawn(shape.width), rows_per_shard=1024)
            extract_locally(project, folder, folder / "out", on_progress=lambda *_: None)

    @cached_property
    def llm(self) -> FrozenLLM:
        """The frozen LLM, loaded as a user's is."""
        config = LLMConfig(
            path=str(self.folder / "lm"),
            dtype=self.shape.dtype,  # type: ignore[arg-type]
            prompt=self.prompt,
            max_caption_tokens=64,
            execution=self.execution,
        )
        return FrozenLLM(config, self.folder, device=self.device)

    @cached_property
    def rows(self) -> SplitRows:
        """The training rows."""
        dataset = EmbeddingDataset(self.folder / "out" / "texts" / "drawn")
        return SplitRows(
            modality="texts",
            encoder="drawn",
            split="train",
            encoder_path="drawn",
            dataset=dataset,
            rows=np.arange(_ROWS, dtype=np.int64),
            instruction_W=torch.nn.functional.normalize(torch.ones(self.shape.width), dim=-1),
        )

    def semi(self) -> Semi:
        """The paper's hypernetwork around a fresh projector."""
        torch.manual_seed(0)
        shape = self.shape
        projector = Projector(shape.width, shape.hidden, soft_tokens=1, dropout=0.1)
        config = HypernetConfig(kind="attention", rank=shape.rank, alpha=float(shape.rank), width=shape.width)
        return Semi(projector, build_hypernet(config, projector)).to(self.device)

    def task(self, semi: Semi, *, episodes: int | None = None, queries: int | None = None) -> MetaTask:
        """Meta-training as the job runs it."""
        shape = self.shape
        return MetaTask(
            semi,
            self.llm,
            paired=[self.rows],
            episodes=EpisodeConfig(support_shots=(shape.shots,), queries=queries or shape.queries),
            config=MetaConfig(optim=OPTIM, episodes_per_step=episodes or shape.episodes),
            seed=0,
        )


def _save_llm(folder: Path, shape: Shape) -> None:
    vocabulary = {word: index for index, word in enumerate([*_MARKS, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(getattr(torch, shape.dtype)).save_pretrained(folder)

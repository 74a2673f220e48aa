"""Extraction on Ray Data against the bare loop: the same encoder, batch size and threads, and nothing else.

In: a number of rows and of threads.  Out: rows a second of both, and their ratio.

Both are measured in the steady state: from the first finished shard to the last one, by the times of the files.  Half
of the bare loop runs before the extraction and half after it, so that a machine that slows down slows both.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.project import WORDS, draw_texts, text_project
from pipeline.config.schema import EncoderConfig
from pipeline.signal import Signal

ROWS_PER_SHARD = 256


@dataclass(frozen=True, kw_only=True)
class ExtractionFigures:
    """What was measured."""

    rows: int
    """Rows of the dataset."""
    bare_rows_per_s: float
    """Tokenise and forward, in this process."""
    ray_rows_per_s: float
    """Ray Data with one encoder actor."""
    ratio: float
    """The second over the first."""
    startup_s: float
    """From the call to the first finished shard: Ray's start, the actor's imports, and that shard."""


def measure(folder: Path, *, rows: int, threads: int, batch_size: int, layers: int, width: int) -> dict[str, Any]:
    """Run both on `rows` texts; `ValueError` where they are too few for a steady state."""
    import torch

    from pipeline.encoders.registry import load_encoder
    from pipeline.runtime.ray_data import extract
    from pipeline.shards import EmbeddingDataset

    if rows < 2 * ROWS_PER_SHARD:
        raise ValueError(f"--rows must be at least {2 * ROWS_PER_SHARD} for this part, got {rows}: two shards")
    save_bert(folder / "model", layers=layers, width=width)
    encoder = EncoderConfig(name="bert", path=str(folder / "model"), batch_size=batch_size)
    texts = draw_texts(rows)
    config = text_project(folder, texts, encoder, rows_per_shard=ROWS_PER_SHARD, threads=threads)

    torch.set_num_threads(threads)
    loaded = load_encoder(encoder, "text", folder)
    signals = [Signal(kind="text", text=text) for text in texts]
    blocks = [signals[start : start + ROWS_PER_SHARD] for start in range(0, rows, ROWS_PER_SHARD)]
    half = len(blocks) // 2
    first_ND = loaded.encode(blocks[0])  # the first pass is slower: it is not counted on either side
    seconds = _seconds(loaded, blocks[:half])
    began = time.time()
    extract(config, folder, folder / "out", on_progress=lambda *_: None)
    seconds += _seconds(loaded, blocks[half:])

    dataset = folder / "out" / "texts" / "bert"
    _check_same(EmbeddingDataset(dataset), first_ND)
    finished = sorted(path.stat().st_mtime for path in dataset.glob("shard-*.arrow"))
    bare = rows / seconds
    # Every shard after the first; the last one may be smaller.
    ray = (rows - ROWS_PER_SHARD) / (finished[-1] - finished[0])
    figures = ExtractionFigures(
        rows=rows, bare_rows_per_s=bare, ray_rows_per_s=ray, ratio=ray / bare, startup_s=finished[0] - began
    )
    return asdict(figures)


def _seconds(encoder: Any, blocks: list[list[Signal]]) -> float:
    began = time.perf_counter()
    for block in blocks:
        encoder.encode(block)
    return time.perf_counter() - began


def _check_same(dataset: Any, bare_ND: npt.NDArray[np.float32]) -> None:
    stored_ND = dataset.embeddings(range(len(bare_ND)), normalize=False).numpy()
    if not np.allclose(stored_ND, bare_ND, rtol=1e-2, atol=1e-2):
        raise RuntimeError("Ray Data and the bare loop did different work: their vectors differ")


def save_bert(folder: Path, *, layers: int, width: int) -> None:
    """A BERT with random weights, by default of the size of all-MiniLM-L6."""
    import torch
    from transformers import BertConfig, BertModel

    from pipeline.models.miniature.tokenizer import word_tokenizer

    tokenizer = word_tokenizer(WORDS)
    tokenizer.model_max_length = 128
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // 32, 1),
        intermediate_size=4 * width,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

"""The integration benchmark works at a tiny size, and its floor writes what `transformers` writes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks.integrate import bare_captions, measure, rows
from benchmarks.meta_world import SHAPES, World


def _arguments(shape: str = "tiny") -> Namespace:
    return Namespace(shape=shape, device="cpu", threads=1, rounds=1, shots=8, steps=2, json=None)


def test_every_contestant_is_timed_and_compared(tmp_path: Path) -> None:
    figures = measure(tmp_path, _arguments())
    assert figures["tuned_over_bare"] == pytest.approx(figures["tuned_s"] / figures["floor_s"])
    assert figures["together_over_alone"] == pytest.approx(figures["together_s"] / figures["tuned_s"] / 8)
    for size in (1, 32):
        ratio = figures[f"captions_{size}_s"] / figures[f"bare_captions_{size}_s"]
        assert figures[f"captions_{size}_over_bare"] == pytest.approx(ratio)
    assert "adapter of 8 pairs" in rows(figures)[0]


def test_the_bare_loop_writes_the_captions_that_generate_writes(tmp_path: Path) -> None:
    world = World(tmp_path, SHAPES["tiny"])
    soft_BSD = torch.randn(3, 1, world.llm.width, generator=torch.Generator().manual_seed(0))
    bare = world.llm.tokenizer.batch_decode(bare_captions(world.llm, soft_BSD), skip_special_tokens=True)
    assert [text.strip() for text in bare] == world.llm.generate(soft_BSD)


def test_an_unknown_shape_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--shape must be one of tiny, miniature, small, llama1b, got 'huge'"):
        measure(tmp_path, _arguments("huge"))

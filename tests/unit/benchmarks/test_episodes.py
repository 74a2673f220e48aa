"""The benchmark of random access works at a tiny size; what it measures is another machine's business."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import episodes
from benchmarks.embeddings import _rows
from benchmarks.project import draw_texts


def test_every_variant_is_timed_warm_and_cold(tmp_path: Path) -> None:
    figures = episodes.measure(tmp_path, rows=200, width=16, repeats=3, cold_repeats=2)
    assert figures["rows"] == 200
    for name in ("shards", "memmap", "pickle", "pickle_of_rows"):
        assert figures[name]["warm_ms"] > 0
        assert figures[name]["cold_ms"] > 0
        assert figures[name]["cold_mib_from_disk"] >= 0
    ours, pickled = figures["shards"]["warm_ms"], figures["pickle"]["warm_ms"]
    assert figures["warm_pickle_over_shards"] == pickled / ours
    assert figures["cold_shards_over_memmap"] == figures["shards"]["cold_ms"] / figures["memmap"]["cold_ms"]
    measures = [row[0] for row in _rows({"episodes": figures})]
    assert measures[:3] == [
        "pickled columns / shards, warm",
        "pickled rows / shards, warm",
        "shards / memory map, warm",
    ]


def test_variants_that_read_other_numbers_are_no_comparison(tmp_path: Path) -> None:
    variants = episodes._variants(tmp_path, 200, 16)
    np.save(tmp_path / "embedding.npy", np.zeros((200, 16), dtype=np.float16))
    with pytest.raises(RuntimeError, match="read different numbers"):
        episodes._check_equal(variants, np.arange(160))


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--rows must be at least 160 for this part, got 159"):
        episodes.measure(tmp_path, rows=159)


def test_texts_are_as_long_as_captions() -> None:
    lengths = [len(text.split()) for text in draw_texts(2000)]
    assert draw_texts(3) == draw_texts(3)
    assert min(lengths) >= 5 and max(lengths) <= 60
    assert 12 <= np.median(lengths) <= 16

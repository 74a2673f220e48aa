"""Texts as embeddings, for whoever has strings and no signals.

In: the configured text encoder.  Out: a function of texts, which embeds each of them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config.schema import EncoderConfig
from pipeline.encoders.registry import load_encoder
from pipeline.signal import Signal

_KEPT = 16384
"""Embeddings that are remembered at most: captions of a test set repeat from method to method."""


def text_embedder(config: EncoderConfig, root: Path) -> Callable[[Sequence[str]], npt.NDArray[np.float32]]:
    """Texts -> embeddings `[n, width]`, as the encoder gives them; it is loaded at the first call."""
    known: dict[str, npt.NDArray[np.float32]] = {}
    encoder = cache(partial(load_encoder, config, "text", root))

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if len(known) > _KEPT:
            known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, encoder().encode([Signal(kind="text", text=text) for text in new]), strict=True))
        return np.stack([known[text] for text in texts])

    return embed

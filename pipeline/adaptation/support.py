"""A support set: the K pairs of one draw, and nothing else of their modality.

In: training rows of a held-out dataset and the positions drawn from them.  Out: tensors and captions of these pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.episodes.batch import SupportBatch
from pipeline.episodes.sampler import philox
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.training.sources import SplitRows

_SHUFFLE_STREAM, _DRAW_STREAM = 6, 23


@dataclass(frozen=True, kw_only=True, eq=False)
class SupportSet:
    """K pairs of a modality nobody trained on."""

    modality: str
    """Name of the modality."""
    encoder: str
    """Name of the encoder."""
    ids: tuple[str, ...]
    """Ids of the pairs, written on the adapter's card."""
    embeddings_KE: Tensor
    """L2-normalised embeddings."""
    texts_KW: Tensor
    """L2-normalised text embeddings of the captions."""
    captions: tuple[str, ...]
    """One caption a pair."""
    instruction_W: Tensor
    """Text embedding of the instruction."""
    attributes: tuple[Mapping[str, str], ...] = ()
    """What the pairs' attributes are; none where the modality has no attributes. Only the linear probe reads them."""

    @property
    def shots(self) -> int:
        """K."""
        return len(self.captions)

    def batch(self, device: torch.device | str = "cpu") -> SupportBatch:
        """As a hypernetwork reads it (N = 1)."""
        return SupportBatch(
            embeddings_NKE=self.embeddings_KE.unsqueeze(0).to(device),
            texts_NKW=self.texts_KW.unsqueeze(0).to(device),
            instructions_NW=self.instruction_W.unsqueeze(0).to(device),
        )


def read_support(rows: SplitRows, positions: npt.NDArray[np.int64]) -> SupportSet:
    """Read the drawn pairs."""
    return SupportSet(
        modality=rows.modality,
        encoder=rows.encoder,
        ids=tuple(rows.ids(positions)),
        embeddings_KE=rows.embeddings(positions),
        texts_KW=rows.text_embeddings(positions),
        captions=tuple(captions[0] for captions in rows.captions(positions)),
        instruction_W=rows.instruction_W,
        attributes=tuple(rows.attributes(positions)),
    )


def draw_supports(sources: Sequence[SplitRows], shots: int, seed: int) -> list[SupportSet]:
    """A support of every source, of `shots` pairs or all there are, drawn without replacement."""
    return [
        read_support(
            rows,
            philox(seed, _DRAW_STREAM, index).choice(len(rows), size=min(shots, len(rows)), replace=False),
        )
        for index, rows in enumerate(sources)
    ]


def shuffle_texts(support: SupportSet, seed: int) -> SupportSet:
    """The control: every sample gets another pair's caption (a derangement), so only the pairing is lost."""
    if support.shots < 2:
        raise ValueError(f"the shuffled-text control needs at least 2 pairs, got {support.shots}")
    order = philox(seed, _SHUFFLE_STREAM).permutation(support.shots)
    # Shifting a random cycle by one place moves every element.
    source = np.empty_like(order)
    source[order] = np.roll(order, 1)
    return replace(
        support,
        texts_KW=support.texts_KW[torch.from_numpy(source)],
        captions=tuple(support.captions[int(i)] for i in source),
        attributes=tuple(support.attributes[int(i)] for i in source) if support.attributes else (),
    )


def distinct_pairs(rows: SplitRows) -> npt.NDArray[np.int64]:
    """Positions of the pairs, of equal ones (embedding and caption) the first alone: a copy tells nothing new."""
    positions = np.arange(len(rows), dtype=np.int64)
    seen: set[tuple[bytes, str]] = set()
    kept = []
    for position, embedding_E, captions in zip(
        positions, rows.embeddings(positions), rows.captions(positions), strict=True
    ):
        pair = (embedding_E.numpy().tobytes(), captions[0])
        if pair not in seen:
            kept.append(position)
        seen.add(pair)
    return np.array(kept, dtype=np.int64)


def check_support(support: SupportSet, llm: FrozenLLM) -> None:
    """Raise where the pairs cannot teach anything: one caption, one embedding, or words the LLM cannot write."""
    if len(set(support.captions)) < 2:
        raise ValueError(
            f"{support.modality!r}: all {support.shots} pairs of the support have the caption "
            f"{support.captions[0]!r}: nothing can be told apart; give pairs with different captions"
        )
    if not (support.embeddings_KE - support.embeddings_KE[0]).abs().max() > 0:
        raise ValueError(
            f"{support.modality!r}: encoder {support.encoder!r} gives all {support.shots} pairs of the support the "
            "same embedding: choose another encoder, or signals that differ"
        )
    unreadable = [caption for caption in support.captions if not llm.knows(caption)]
    if unreadable:
        raise ValueError(
            f"{support.modality!r}: {len(unreadable)} of {support.shots} captions, such as {unreadable[0]!r}, hold no "
            f"word that the tokenizer of llm.path={llm.config.path!r} knows (another script?): give captions that the "
            "LLM can write"
        )

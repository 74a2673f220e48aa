"""Tensors of support sets and episodes, as the models read them.

Shape suffixes: N episodes, K support pairs, B queries an episode, E encoder width, W text width, P projector's inner
width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SupportBatch:
    """Support sets of N (synthetic) modalities with K pairs each."""

    embeddings_NKE: Tensor
    """L2-normalised embeddings under the episode's isometry; narrower encoders are zero-padded to the widest."""
    texts_NKW: Tensor
    """L2-normalised text embeddings of the captions; no isometry is ever applied to them."""
    instructions_NW: Tensor
    """Text embedding of each modality's instruction."""

    def __post_init__(self) -> None:
        n, k = self.embeddings_NKE.shape[:2]
        if self.texts_NKW.shape[:2] != (n, k) or self.instructions_NW.shape[0] != n:
            raise ValueError(
                f"support shapes differ: embeddings {tuple(self.embeddings_NKE.shape)}, texts "
                f"{tuple(self.texts_NKW.shape)}, instructions {tuple(self.instructions_NW.shape)}"
            )

    @property
    def shots(self) -> int:
        """K."""
        return int(self.embeddings_NKE.shape[1])

    @property
    def width(self) -> int:
        """E."""
        return int(self.embeddings_NKE.shape[2])


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeBatch:
    """N episodes: their support sets and the queries the loss is taken on."""

    support: SupportBatch
    """What the hypernetwork reads."""
    queries_NBE: Tensor
    """Query embeddings under the same isometry as the support."""
    captions: tuple[tuple[str, ...], ...]
    """Captions of the queries, `captions[n][b]`."""
    caption_ids: list[list[int]] | None = None
    """The same captions, one behind another, as tokens of the LLM: made ahead of the step where a task does so."""
    keep_NBP: Tensor | None = None
    """Factors of the projector's dropout, where it is trained."""

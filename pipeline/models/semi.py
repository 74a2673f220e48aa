"""The assembly: projector and hypernetwork.

In: an `EpisodeBatch` (training) or one support set (integration).
Out: soft tokens of the queries, or a merged projector that takes the new encoder's embeddings as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from pipeline.episodes.batch import EpisodeBatch, SupportBatch
from pipeline.episodes.width import WidthMap, fit_width_map
from pipeline.models.hypernet import Hypernet
from pipeline.models.lora import LinearAdapter, average_adapters
from pipeline.models.projector import Projector


class Semi(nn.Module):
    """A shared projector and the hypernetwork that adapts it."""

    def __init__(self, projector: Projector, hypernet: Hypernet, *, train_projector: bool = False) -> None:
        super().__init__()
        self.projector, self.hypernet = projector, hypernet
        projector.requires_grad_(train_projector)
        self.train_projector = train_projector
        self.train()

    def train(self, mode: bool = True) -> Semi:
        """A frozen projector stays in evaluation mode: no dropout."""
        super().train(mode)
        self.projector.train(mode and self.train_projector)
        return self

    @record_function("adapters and projector")
    def forward(self, batch: EpisodeBatch) -> Tensor:
        """Soft tokens `[N, B, S, D]` of each episode's queries under its own adapter."""
        adapters = self.hypernet(batch.support, self.projector)
        soft: Tensor = self.projector(batch.queries_NBE, adapters, batch.keep_NBP if self.projector.training else None)
        return soft

    @torch.no_grad()
    def integrate(self, support: SupportBatch, *, chunk: int, width_seed: int = 0) -> Projector:
        """Merge the adapter of one modality (N = 1) into a projector of its encoder's width (METHOD section 2.3).

        Supports larger than `chunk` pairs are read in chunks, whose adapters are averaged.
        """
        adapter, width_map = self.generate(support, chunk=chunk, width_seed=width_seed)
        merged = self.projector.merged(adapter)
        return merged if width_map is None else fold_width_map(merged, width_map)

    @torch.no_grad()
    def generate(
        self, support: SupportBatch, *, chunk: int, width_seed: int = 0
    ) -> tuple[list[LinearAdapter | None], WidthMap | None]:
        """The adapter of one modality (N = 1), and the map to the width that it reads where that is another one."""
        if support.embeddings_NKE.shape[0] != 1:
            raise ValueError(f"integrate one modality at a time, got {support.embeddings_NKE.shape[0]}")
        self.eval()
        wanted = self.hypernet.common_width
        width_map: WidthMap | None = None
        embeddings = support.embeddings_NKE
        if wanted is not None and support.width != wanted:
            width_map = fit_width_map(embeddings[0], wanted, kind=self.projector.width_map, seed=width_seed)
            embeddings = width_map(embeddings)
        # Chunks of nearly equal size: a last chunk of one or two pairs would carry as much weight as a full one.
        parts = -(-support.shots // chunk)
        adapters = [
            [
                None if layer is None else layer.episode(0)
                for layer in self.hypernet(
                    SupportBatch(embeddings_NKE=e, texts_NKW=t, instructions_NW=support.instructions_NW),
                    self.projector,
                )
            ]
            for e, t in zip(
                embeddings.tensor_split(parts, dim=1), support.texts_NKW.tensor_split(parts, dim=1), strict=True
            )
        ]
        return [_average_layer(layers) for layers in zip(*adapters, strict=True)], width_map


def _average_layer(layers: Sequence[LinearAdapter | None]) -> LinearAdapter | None:
    present = [layer for layer in layers if layer is not None]
    return average_adapters(present) if present else None


@torch.no_grad()
def fold_width_map(projector: Projector, width_map: WidthMap) -> Projector:
    """A projector that reads the encoder's own width: its first layer is `W1 M^T`."""
    matrix_EW = width_map.matrix_EW.to(projector.linear_layers[0].weight)
    folded = projector.like(input_width=matrix_EW.shape[0])
    for index, (target, source) in enumerate(zip(folded.linear_layers, projector.linear_layers, strict=True)):
        target.weight.copy_(source.weight @ matrix_EW.T if index == 0 else source.weight)
        target.bias.copy_(source.bias)
    return folded

"""Stage 1: the projector learns to caption the high-resource modalities and text itself (METHOD sections 2.1 and 6).

In: training rows of every high-resource (modality, encoder) and unpaired text.
Out: a task for `training.loop`; its module is the projector.

Encoders of another width than the projector's are brought to it by a fixed map each (`episodes.width`). A text row is a
caption's text embedding and the caption itself: text costs nothing, and through it the projector knows the vocabulary
of modalities that nobody has pairs for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config.schema import PretrainConfig
from pipeline.episodes.sampler import philox
from pipeline.episodes.width import WidthMap, fit_width_map
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.sources import SplitRows

_ROW_STREAM, _NOISE_STREAM = 4, 5
_MAP_ROWS = 2048
"""Rows that a training modality's width map is fitted on, where its encoder is wider than the projector."""


class PretrainTask:
    """Caption loss of single pairs drawn from modalities (in proportion to their size) and from text."""

    queries_per_slot = 1

    def __init__(
        self,
        projector: Projector,
        llm: FrozenLLM,
        *,
        paired: Sequence[SplitRows],
        texts: Sequence[SplitRows],
        config: PretrainConfig,
        seed: int,
    ) -> None:
        if config.text_fraction > 0 and not texts:
            raise ValueError(
                f"pretrain.text_fraction={config.text_fraction} needs a dataset with role 'text'; "
                "add one or set it to 0"
            )
        if config.text_fraction < 1 and not paired:
            raise ValueError("pretrain: there is no dataset with role 'train'; add one or set pretrain.text_fraction=1")
        self.module: nn.Module = projector
        self.slots_per_step = config.batch_size
        self._llm, self._config, self._seed = llm, config, seed
        self._groups = [list(paired), list(texts)]
        self._maps = {id(rows): _width_map(rows, projector, seed) for rows in [*paired, *texts]}

    def loss(self, module: nn.Module, step: int, slots: range, device: torch.device) -> Tensor:
        """Mean caption loss of the given slots."""
        inputs_BW, captions = self.batch(step, slots, device)
        return self._llm.caption_losses(module(inputs_BW), captions).mean()

    def batch(self, step: int, slots: range, device: torch.device) -> tuple[Tensor, list[str]]:
        """Projector inputs `[B, W]` and captions of the given slots."""
        rng = philox(self._seed, _ROW_STREAM, step)
        is_text = rng.random(self.slots_per_step) < self._config.text_fraction
        positions = rng.random((self.slots_per_step, 2))
        inputs: list[Tensor] = []
        captions: list[str] = []
        chosen: dict[tuple[int, int], list[int]] = {}
        for slot in slots:
            group = int(is_text[slot])
            chosen.setdefault((group, self._pick(group, positions[slot, 0])), []).append(slot)
        for (group, index), members in sorted(chosen.items()):
            source = self._groups[group][index]
            rows = (positions[members, 1] * len(source)).astype(np.int64)
            mapped, width_map = source.embeddings(rows).to(device), self._maps[id(source)]
            if width_map is not None:
                mapped = width_map(mapped)
            inputs.append(self._with_noise(mapped, step, members) if group else mapped)
            captions.extend(options[0] for options in source.captions(rows))
        return torch.cat(inputs), captions

    def _pick(self, group: int, position: float) -> int:
        sizes = np.array([len(rows) for rows in self._groups[group]], dtype=np.float64)
        return int(np.searchsorted(np.cumsum(sizes) / sizes.sum(), position, side="right").clip(0, len(sizes) - 1))

    def _with_noise(self, texts_BW: Tensor, step: int, slots: Sequence[int]) -> Tensor:
        if not self._config.text_noise:
            return texts_BW
        noisy = []
        for text_W, slot in zip(texts_BW, slots, strict=True):
            rng = philox(self._seed, _NOISE_STREAM, step, slot)
            level = self._config.text_noise * rng.random() / np.sqrt(len(text_W))
            noise = torch.from_numpy(rng.standard_normal(len(text_W), dtype=np.float32)).to(text_W)
            noisy.append(text_W + level * text_W.norm() * noise)
        return torch.stack(noisy)


def _width_map(rows: SplitRows, projector: Projector, seed: int) -> WidthMap | None:
    if rows.width == projector.input_width:
        return None
    sample = rows.embeddings(np.arange(min(len(rows), _MAP_ROWS), dtype=np.int64))
    return fit_width_map(sample, projector.input_width, kind=projector.width_map, seed=seed)

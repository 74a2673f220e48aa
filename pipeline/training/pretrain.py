"""Stage 1: the projector learns to caption the high-resource modalities and text itself (METHOD sections 2.1 and 6).

In: training rows of every high-resource (modality, encoder) and unpaired text.
Out: a task for `training.loop`; its module is the projector.

Encoders of another width than the projector's are brought to it by a fixed map each (`episodes.width`). A text row is a
caption's text embedding and the caption itself: text costs nothing, and through it the projector knows the vocabulary
of modalities that nobody has pairs for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config.schema import PretrainConfig
from pipeline.episodes.dropout import KeepMasks
from pipeline.episodes.sampler import philox
from pipeline.episodes.width import WidthMap, fit_width_map
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.sources import SplitRows, list_ids

_ROW_STREAM, _NOISE_STREAM = 4, 5
_MAP_ROWS = 2048
"""Rows that a training modality's width map is fitted on, where its encoder is wider than the projector."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch:
    """Pairs of one worker, in the order of their slots; P is the projector's inner width."""

    inputs_BW: Tensor
    """What the projector reads."""
    captions: tuple[str, ...]
    """What the LLM is to say."""
    caption_ids: list[list[int]]
    """The same as its tokens."""
    keep_BP: Tensor | None
    """Factors of the projector's dropout."""


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
        self._keep = KeepMasks((projector.inner_width,), projector.dropout, seed=seed)
        self._groups = [list(paired), list(texts)]
        self._maps = {id(rows): _width_map(rows, projector, seed) for rows in [*paired, *texts]}

    def prepare(self, step: int, slots: range, device: torch.device) -> PairBatch:
        """The pairs of the given slots, in their order."""
        drawn = self._draw(step, slots)
        inputs: dict[int, Tensor] = {}
        captions: dict[int, str] = {}
        for (group, index), members in drawn.items():
            source = self._groups[group][index]
            rows = np.array(list(members.values()), dtype=np.int64)
            embeddings, width_map = source.embeddings(rows), self._maps[id(source)]
            for slot, finite in zip(members, torch.isfinite(embeddings).all(dim=1).tolist(), strict=True):
                if not finite:
                    raise ValueError(
                        f"{self.describe(step, slot)}: the embedding is not finite; extract this dataset again"
                    )
            mapped = embeddings.to(device)
            if width_map is not None:
                mapped = width_map(mapped)
            mapped = self._with_noise(mapped, step, list(members)) if group else mapped
            inputs |= zip(members, mapped, strict=True)
            captions |= zip(members, (options[0] for options in source.captions(rows)), strict=True)
        ordered = tuple(captions[slot] for slot in slots)
        return PairBatch(
            inputs_BW=torch.stack([inputs[slot] for slot in slots]),
            captions=ordered,
            caption_ids=self._llm.caption_ids(ordered),
            keep_BP=self._keep.draw(step, slots, device),
        )

    def losses(self, module: nn.Module, batch: PairBatch) -> Tensor:
        """Caption loss of each pair, `[B]`."""
        return self._llm.token_losses(module(batch.inputs_BW, keep_BP=batch.keep_BP), batch.caption_ids)

    def describe(self, step: int, slot: int) -> str:
        """Coordinates of a pair."""
        (((group, index), members),) = self._draw(step, [slot]).items()
        source = self._groups[group][index]
        row = list_ids(source, np.array([members[slot]], dtype=np.int64))
        return f"step {step}, slot {slot} (modality {source.modality!r}, encoder {source.encoder!r}, row {row})"

    def _draw(self, step: int, slots: Sequence[int]) -> dict[tuple[int, int], dict[int, int]]:
        """For each source, as (group, index): the slots that read it, and the row that each of them reads."""
        rng = philox(self._seed, _ROW_STREAM, step)
        is_text = rng.random(self.slots_per_step) < self._config.text_fraction
        positions = rng.random((self.slots_per_step, 2))
        drawn: dict[tuple[int, int], dict[int, int]] = {}
        for slot in slots:
            group = int(is_text[slot])
            index = self._pick(group, positions[slot, 0])
            row = int(positions[slot, 1] * len(self._groups[group][index]))
            drawn.setdefault((group, index), {})[slot] = row
        return dict(sorted(drawn.items()))

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
    if not torch.isfinite(sample).all():
        raise ValueError(
            f"dataset {rows.modality!r}, encoder {rows.encoder!r}: embeddings that are not finite; extract it again"
        )
    return fit_width_map(sample, projector.input_width, kind=projector.width_map, seed=seed)

"""Pre-training batches: the same rows for any number of workers, text beside pairs, noise on text only."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.config.schema import OptimConfig, PretrainConfig, WidthMapKind
from pipeline.episodes.width import fit_width_map
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.pretrain import PretrainTask

CPU = torch.device("cpu")
WORDS = ("red", "blue", "green", "small", "large")


class FakeRows:
    """Rows of a split: captions name the row, so that a mix-up shows."""

    def __init__(self, rows: int, width: int, seed: int) -> None:
        self.width, self.modality = width, f"m{seed}"
        generator = torch.Generator().manual_seed(seed)
        self.all_NE = normalize(torch.randn(rows, width, generator=generator), dim=-1)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.all_NE)

    def embeddings(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        return self.all_NE[rows]

    def captions(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> list[tuple[str, ...]]:
        return [(f"{self.seed}/{row}",) for row in rows]


PAIRED = [FakeRows(100, 6, 1), FakeRows(300, 9, 2), FakeRows(50, 4, 3)]
TEXTS = [FakeRows(80, 6, 4)]


def _task(
    llm: FrozenLLM,
    paired: list[FakeRows] = PAIRED,
    texts: list[FakeRows] = TEXTS,
    width_map: WidthMapKind = "orthonormal",
    **changes: Any,
) -> PretrainTask:
    config = PretrainConfig(**{"optim": OptimConfig(steps=3), "batch_size": 16, "text_fraction": 0.5, **changes})
    projector = Projector(6, llm.width, soft_tokens=2, dropout=0.0, width_map=width_map)
    return PretrainTask(projector, llm, paired=paired, texts=texts, config=config, seed=7)  # type: ignore[arg-type]


def _batch(task: PretrainTask, step: int, slots: range) -> tuple[Tensor, tuple[str, ...]]:
    batch = task.prepare(step, slots, CPU)
    return batch.inputs_BW, batch.captions


def test_workers_together_read_the_batch_of_one(llm: FrozenLLM) -> None:
    task = _task(llm)
    for step in range(4):
        inputs, captions = _batch(task, step, range(16))
        whole = dict(zip(captions, inputs, strict=True))
        shared: dict[str, Tensor] = {}
        for rank in range(4):
            part_inputs, part_captions = _batch(task, step, range(rank, 16, 4))
            assert len(part_captions) == 4
            shared |= dict(zip(part_captions, part_inputs, strict=True))
        assert whole.keys() == shared.keys()
        for key, vector in whole.items():  # a product of another batch size may round differently
            torch.testing.assert_close(shared[key], vector, atol=1e-6, rtol=1e-6)


def test_embeddings_and_captions_belong_together(llm: FrozenLLM) -> None:
    inputs, captions = _batch(_task(llm, text_noise=0.0), 0, range(16))
    assert inputs.shape == (16, 6)
    for vector, caption in zip(inputs, captions, strict=True):
        seed, row = map(int, caption.split("/"))
        if seed in (1, 4):  # of the projector's own width, so nothing is mapped
            source = next(rows for rows in [*PAIRED, *TEXTS] if rows.seed == seed)
            torch.testing.assert_close(vector, source.all_NE[row])


@pytest.mark.parametrize("kind", get_args(WidthMapKind))
def test_a_modality_has_one_width_map_for_all_its_rows(llm: FrozenLLM, kind: WidthMapKind) -> None:
    maps = {rows.seed: fit_width_map(rows.all_NE, 6, kind=kind, seed=7) for rows in PAIRED if rows.all_NE.shape[1] != 6}
    seen = set()
    for step in range(4):
        for vector, caption in zip(*_batch(_task(llm, width_map=kind), step, range(16)), strict=True):
            seed, row = map(int, caption.split("/"))
            if seed in maps:
                expected = maps[seed](next(rows for rows in PAIRED if rows.seed == seed).all_NE[row])
                torch.testing.assert_close(vector, expected)
                seen.add(seed)
    assert seen == {2, 3}


def test_modalities_are_drawn_by_size_and_text_by_its_share(llm: FrozenLLM) -> None:
    task = _task(llm, batch_size=512, text_fraction=0.25)
    drawn = [int(caption.split("/")[0]) for step in range(8) for caption in _batch(task, step, range(512))[1]]
    share = {seed: drawn.count(seed) / len(drawn) for seed in (1, 2, 3, 4)}
    assert share[4] == pytest.approx(0.25, abs=0.03)
    assert share[2] == pytest.approx(0.75 * 300 / 450, abs=0.03)


def test_noise_is_bounded_and_spares_paired_embeddings(llm: FrozenLLM) -> None:
    clean = dict(zip(*reversed(_batch(_task(llm, text_noise=0.0), 2, range(16))), strict=True))
    noisy = dict(zip(*reversed(_batch(_task(llm, text_noise=0.5), 2, range(16))), strict=True))
    changed = {caption for caption in clean if not torch.equal(clean[caption], noisy[caption])}
    assert changed and all(caption.startswith("4/") for caption in changed)
    assert all((clean[caption] - noisy[caption]).norm() < 1.2 for caption in changed)


def test_missing_roles_are_named(llm: FrozenLLM) -> None:
    with pytest.raises(ValueError, match=r"pretrain\.text_fraction=0\.5 needs a dataset with role 'text'"):
        _task(llm, texts=[])
    with pytest.raises(ValueError, match="there is no dataset with role 'train'"):
        _task(llm, paired=[])

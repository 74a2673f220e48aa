"""Batches: one isometry for support and queries, none for text, widths padded or mapped."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.config.schema import EpisodeConfig, WidthMapKind
from pipeline.episodes.augmentation import sample_augmentation
from pipeline.episodes.batch import EpisodeBatch
from pipeline.episodes.collate import EpisodeBuilder, Rows
from pipeline.episodes.sampler import EpisodeSampler
from pipeline.episodes.width import fit_width_map


class FakeSource:
    """Random unit embeddings of 40 rows."""

    def __init__(self, width: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.embeddings_NE = normalize(torch.randn(40, width, generator=generator), dim=-1)
        self.texts_NW = normalize(torch.randn(40, 6, generator=generator), dim=-1)
        self.instruction_W = torch.full((6,), float(seed))

    def __len__(self) -> int:
        return 40

    def embeddings(self, rows: Rows) -> Tensor:
        return self.embeddings_NE[rows]

    def text_embeddings(self, rows: Rows) -> Tensor:
        return self.texts_NW[rows]

    def captions(self, rows: Rows) -> list[tuple[str, ...]]:
        return [(f"caption {row}",) for row in rows]


SOURCES = [FakeSource(8, 1), FakeSource(12, 2)]
SAMPLER = EpisodeSampler(
    sizes=[40, 40], modalities=["a", "b"], config=EpisodeConfig(support_shots=(5,), queries=3), seed=0
)


def _build(
    isometry: str, common_width: int | None = None, width_map: WidthMapKind = "orthonormal"
) -> tuple[EpisodeBatch, list[int]]:
    slots = list(range(6))
    config = EpisodeConfig(support_shots=(5,), queries=3, isometry=isometry)
    builder = EpisodeBuilder(SOURCES, SAMPLER, config=config, common_width=common_width, width_map=width_map)
    batch = builder.build(3, slots)
    return batch, [SAMPLER.episode(3, slot).dataset for slot in slots]


def test_isometry_is_shared_by_support_and_queries_and_spares_text() -> None:
    plain, _ = _build("none")
    rotated, _ = _build("haar")
    both = [torch.cat([b.support.embeddings_NKE, b.queries_NBE], dim=1) for b in (plain, rotated)]
    torch.testing.assert_close(both[0] @ both[0].mT, both[1] @ both[1].mT, atol=1e-5, rtol=0)
    assert (both[0] - both[1]).abs().amax(dim=(1, 2)).min() > 0.1
    assert torch.equal(plain.support.texts_NKW, rotated.support.texts_NKW)
    # Episodes of one dataset get isometries of their own: the same row would land elsewhere.
    grams = rotated.queries_NBE @ rotated.queries_NBE.mT
    assert grams.shape == (6, 3, 3)


ISOMETRIES = ["none", "haar", "bank:2", "householder:3", "signed_permutation", "scale:0.5", "warp:0.5"]


@pytest.mark.parametrize("isometry", ISOMETRIES)
def test_support_and_queries_share_the_draw_of_their_episode(isometry: str) -> None:
    plain, datasets = _build("none")
    batch, _ = _build(isometry)
    assert torch.equal(plain.support.texts_NKW, batch.support.texts_NKW)
    assert torch.equal(plain.support.instructions_NW, batch.support.instructions_NW)
    for slot, dataset in enumerate(datasets):
        spec, source = SAMPLER.episode(3, slot), SOURCES[dataset]
        width = source.embeddings_NE.shape[1]
        draw = sample_augmentation(isometry, width, spec.isometry_seed)
        for got, rows in (
            (batch.support.embeddings_NKE[slot], spec.support_K),
            (batch.queries_NBE[slot], spec.query_B),
        ):
            torch.testing.assert_close(got[:, :width], draw(source.embeddings_NE[rows]))
            assert not got[:, width:].any()


def test_the_episodes_of_a_dataset_are_read_at_once() -> None:
    reads: list[Rows] = []

    class CountingSource(FakeSource):
        def embeddings(self, rows: Rows) -> Tensor:
            reads.append(rows)
            return super().embeddings(rows)

    config = EpisodeConfig(support_shots=(5,), queries=3)
    sampler = EpisodeSampler(sizes=[40], modalities=["a"], config=config, seed=0)
    builder = EpisodeBuilder([CountingSource(8, 1)], sampler, config=config, common_width=10, width_map="orthonormal")
    builder.build(0, [4, 2])
    expected = [np.concatenate([spec.support_K, spec.query_B]) for spec in map(sampler.episode, (0, 0), (4, 2))]
    assert len(reads) == 1 and np.array_equal(reads[0], np.concatenate(expected))


def test_rows_and_captions_belong_together() -> None:
    batch, datasets = _build("none")
    for slot, dataset in enumerate(datasets):
        spec = SAMPLER.episode(3, slot)
        width = SOURCES[dataset].embeddings_NE.shape[1]
        assert torch.equal(batch.queries_NBE[slot, :, :width], SOURCES[dataset].embeddings_NE[spec.query_B])
        assert not batch.queries_NBE[slot, :, width:].any()
        assert torch.equal(batch.support.texts_NKW[slot], SOURCES[dataset].texts_NW[spec.support_K])
        assert batch.captions[slot] == tuple(f"caption {row}" for row in spec.query_B)
        assert float(batch.support.instructions_NW[slot, 0]) == dataset + 1
    assert set(datasets) == {0, 1}


def test_common_width_maps_every_encoder_to_it() -> None:
    batch, datasets = _build("haar", common_width=10)
    assert batch.support.width == 10
    narrow = [slot for slot, dataset in enumerate(datasets) if dataset == 0]
    spec = SAMPLER.episode(3, narrow[0])
    original = SOURCES[0].embeddings_NE[np.concatenate([spec.support_K, spec.query_B])]
    mapped = torch.cat([batch.support.embeddings_NKE[narrow[0]], batch.queries_NBE[narrow[0]]])
    torch.testing.assert_close(mapped @ mapped.T, original @ original.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", get_args(WidthMapKind))
def test_the_width_map_is_fitted_to_the_support_alone(kind: WidthMapKind) -> None:
    batch, datasets = _build("none", common_width=10, width_map=kind)
    for slot, dataset in enumerate(datasets):
        spec, source = SAMPLER.episode(3, slot), SOURCES[dataset]
        support, queries = source.embeddings_NE[spec.support_K], source.embeddings_NE[spec.query_B]
        width_map = fit_width_map(support, 10, kind=kind, seed=spec.isometry_seed)
        torch.testing.assert_close(batch.support.embeddings_NKE[slot], width_map(support))
        torch.testing.assert_close(batch.queries_NBE[slot], width_map(queries))

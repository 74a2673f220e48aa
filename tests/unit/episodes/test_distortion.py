"""Text that plays a signal: distorted by a pure function, within the bounds that the settings give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from pipeline.config.schema import EpisodeConfig
from pipeline.episodes.collate import EpisodeBuilder
from pipeline.episodes.distortion import distort
from pipeline.episodes.sampler import EpisodeSampler
from tests.unit.episodes.test_collate import SOURCES


def _rows(seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(300, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


@given(seed=st.integers(0, 2**63 - 1), scale=st.floats(0.0, 1.0), noise=st.floats(0.01, 2.0))
@settings(max_examples=30, deadline=None)
def test_distorted_rows_are_unit_vectors_and_repeat(seed: int, scale: float, noise: float) -> None:
    once = distort(_rows(), scale=scale, noise=noise, seed=seed)
    assert torch.equal(once, distort(_rows(), scale=scale, noise=noise, seed=seed))
    torch.testing.assert_close(once.norm(dim=1), torch.ones(300), atol=1e-5, rtol=0)


def test_every_bit_of_the_seed_counts() -> None:
    draws = [distort(_rows(), scale=0.5, noise=0.5, seed=seed) for seed in (5, 5 + 2**32)]
    assert not torch.allclose(*draws)


def test_without_settings_nothing_changes() -> None:
    assert distort(_rows(), scale=0.0, noise=0.0, seed=3) is not None
    assert torch.equal(distort(_rows(), scale=0.0, noise=0.0, seed=3), _rows())


def test_more_noise_keeps_less() -> None:
    kept = [float((distort(_rows(), scale=0.0, noise=n, seed=5) * _rows()).sum(1).mean()) for n in (0.1, 1.0, 4.0)]
    assert kept[0] > 0.95 and kept[0] > kept[1] > kept[2]


def test_gains_keep_a_linear_map() -> None:
    """Stretching alone is linear up to each row's length: ratios of coordinates change by one factor an axis."""
    stretched = distort(_rows(), scale=0.7, noise=0.0, seed=1)
    ratio = (stretched / stretched[:, :1]) / (_rows() / _rows()[:, :1])
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert float(ratio[0].std()) > 0.1


@pytest.mark.parametrize("texts", [(), (1,)])
def test_only_text_sources_are_distorted(texts: tuple[int, ...]) -> None:
    config = EpisodeConfig(support_shots=(5,), queries=3, isometry="none", text_fraction=0.5, text_noise=1.0)
    sampler = EpisodeSampler(sizes=[40, 40], modalities=["a", "b"], config=config, seed=0, texts={"b"})
    batch = EpisodeBuilder(
        SOURCES, sampler, config=config, common_width=None, width_map="orthonormal", texts=texts
    ).build(0, range(8))
    drawn = set()
    for slot in range(8):
        spec = sampler.episode(0, slot)
        source = SOURCES[spec.dataset]
        width = source.embeddings_NE.shape[1]
        same = torch.equal(batch.queries_NBE[slot, :, :width], source.embeddings(spec.query_B))
        assert same == (spec.dataset not in texts)
        assert torch.equal(batch.support.texts_NKW[slot], source.text_embeddings(spec.support_K))
        drawn.add(spec.dataset)
    assert drawn == {0, 1}

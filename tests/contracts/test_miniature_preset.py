"""The presets of the embedded suite read exactly what the suite writes, by the models that are shipped beside it."""

from __future__ import annotations

import pytest

from pipeline.config.presets import build_preset
from pipeline.data.miniature.modalities import MODALITIES, source_for


@pytest.mark.parametrize("preset", ["miniature", "smoke"])
def test_sources_are_the_files_that_the_suite_writes(preset: str) -> None:
    config = build_preset(preset)
    assert config.miniature is not None
    for dataset in config.datasets:
        modality = MODALITIES[dataset.name]
        assert dataset.source == source_for(dataset.name, config.miniature.data_dir)
        assert (dataset.kind, dataset.role) == (modality.kind, modality.role)


def test_every_modality_is_in_the_demo() -> None:
    assert {dataset.name for dataset in build_preset("miniature").datasets} == set(MODALITIES)

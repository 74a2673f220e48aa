"""The presets of the embedded suite name what the suite writes and what is shipped beside it."""

from __future__ import annotations

import pytest

from pipeline.config.presets import build_preset
from pipeline.data.miniature.grammar import GRAMMARS


@pytest.mark.parametrize("preset", ["miniature", "smoke"])
def test_scored_attributes_are_those_of_the_grammars(preset: str) -> None:
    config = build_preset(preset)
    for dataset in config.datasets:
        if dataset.role != "text":
            assert dataset.source.attribute_fields == GRAMMARS[dataset.name].attribute_names


def test_every_domain_is_in_the_demo() -> None:
    names = {dataset.name for dataset in build_preset("miniature").datasets if dataset.role != "text"}
    assert names == set(GRAMMARS)

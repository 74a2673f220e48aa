"""Validation modalities: high-resource ones that no training stage reads."""

from __future__ import annotations

import pytest

from pipeline.config.load import override
from pipeline.config.presets import PRESETS


def _names(config: object, role: str) -> list[str]:
    return [dataset.name for dataset in config.datasets_of(role)]  # type: ignore[attr-defined]


def test_a_validation_modality_leaves_training_and_joins_no_other_role() -> None:
    base = PRESETS["miniature"]()
    config = override(base, {"validation": ["speech"]})
    assert _names(base, "train") == ["image", "audio", "video", "speech"]
    assert _names(base, "validation") == []
    assert _names(config, "train") == ["image", "audio", "video"]
    assert _names(config, "validation") == ["speech"]
    assert _names(config, "held_out") == _names(base, "held_out")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["imu"], r"validation must name datasets of role 'train' \(image, audio, video, speech\), got imu"),
        (["image", "audio", "video", "speech"], "validation names every dataset of role 'train'"),
    ],
)
def test_only_high_resource_modalities_serve_and_one_stays(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(PRESETS["miniature"](), {"validation": names})

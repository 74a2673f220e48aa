from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from pipeline.config.load import load_config, to_yaml
from pipeline.config.presets import PRESETS, build_preset
from pipeline.config.schema import MethodName


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds_and_survives_yaml(name: str, tmp_path: Path) -> None:
    config = build_preset(name)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(file=file) == config == load_config(preset=name)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_data_for_every_stage(name: str) -> None:
    config = build_preset(name)
    for stage in ("pretrain", "meta"):
        assert any(dataset.role == "train" and stage in dataset.stages for dataset in config.datasets)
    assert any(dataset.role == "held_out" for dataset in config.datasets)
    if config.pretrain.text_fraction > 0:
        assert any(dataset.role == "text" for dataset in config.datasets)


@pytest.mark.parametrize("name", ["miniature", "smoke"])
def test_embedded_presets_read_only_what_the_suite_writes(name: str) -> None:
    config = build_preset(name)
    assert config.miniature is not None
    for dataset in config.datasets:
        assert dataset.source.path.startswith(f"{config.miniature.data_dir}/{dataset.name}/")
        assert len(dataset.encoders) >= 2


def test_every_method_is_run_by_the_sample_efficiency_preset_and_eight_by_the_demo() -> None:
    assert set(build_preset("sample_efficiency").evaluate.methods) == set(get_args(MethodName))
    assert len(build_preset("miniature").evaluate.methods) == 8
    assert set(build_preset("miniature").evaluate.methods) < set(build_preset("smoke").evaluate.methods)
    # Captions of the paper's data sets come without attributes.
    assert set(get_args(MethodName)) - set(build_preset("paper_llama1b").evaluate.methods) == {"linear_probe"}


def test_smoke_keeps_its_data_apart_from_the_demo() -> None:
    smoke, demo = build_preset("smoke"), build_preset("miniature")
    assert smoke.miniature is not None
    assert demo.miniature is not None
    assert smoke.miniature.data_dir != demo.miniature.data_dir
    assert smoke.name != demo.name


def test_paper_values() -> None:
    config = build_preset("paper_llama1b")
    assert (config.hypernet.rank, config.hypernet.alpha, config.hypernet.width) == (32, 32.0, 768)
    assert (config.projector.soft_tokens, config.projector.width_map) == (1, "pad_select")
    assert config.pretrain.batch_size == 32
    assert config.meta.optim.steps == 2449
    assert config.meta.episodes_per_step * config.episodes.queries == 160
    assert config.episodes.support_shots == (128,)
    assert config.integrate.shots == (32, 128, 512, 2048, 8192)
    assert config.integrate.draws == 5
    assert config.miniature is None
    stages = {dataset.name: dataset.stages for dataset in config.datasets}
    assert stages["coco"] == ("pretrain",)
    assert stages["sharegpt4v"] == ("meta",)


def test_configurations_are_hashable_and_compare_by_value() -> None:
    """Frozen sections are keys of caches; an encoder's options, a dictionary, count in comparisons only."""
    assert hash(build_preset("miniature")) == hash(build_preset("miniature"))
    assert build_preset("miniature") == build_preset("miniature")


def test_a_linear_probe_needs_attributes_of_every_scored_modality() -> None:
    smoke = build_preset("smoke")
    bare = tuple(
        replace(dataset, source=replace(dataset.source, attribute_fields=())) if dataset.name == "imu" else dataset
        for dataset in smoke.datasets
    )
    with pytest.raises(ValueError, match=r"linear_probe, which predicts attributes, and imu has no\s+source.attribute"):
        replace(smoke, datasets=bare)
    others = tuple(name for name in smoke.evaluate.methods if name != "linear_probe")
    replace(smoke, datasets=bare, evaluate=replace(smoke.evaluate, methods=others))

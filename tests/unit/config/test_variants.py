"""Variants of an ablation are checked before anything starts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.ablation import AblateConfig, FactorConfig
from pipeline.config.errors import ConfigError
from pipeline.config.load import load_config, override, to_tree
from pipeline.config.presets import build_preset
from pipeline.config.schema import ExperimentConfig
from pipeline.config.variants import all_variants, resolve_factors
from pipeline.training.identity import training_fingerprint

SMOKE = build_preset("smoke")


def asked(factor: dict[str, Any], base: ExperimentConfig = SMOKE) -> ExperimentConfig:
    return override(base, {"ablate.factors": [{"name": "rank", **factor}]})


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (
            {"variants": {"2": {"hypernet.rnk": 2}}},
            "ablate: rank/2: unknown key 'rnk' in hypernet: did you mean 'rank'?",
        ),
        ({"variants": {"2": {"hypernet.rank": "two"}}}, "ablate: rank/2: hypernet.rank: expected a valid integer"),
        ({"variants": {"4": {"hypernet.rank": 4}}}, "ablate: rank/4 changes nothing: it is the same as its reference"),
        ({"variants": {"4": {}}}, "ablate: rank/4 changes nothing: it is the same as its reference; remove it"),
        (
            {"variants": {"2": {"hypernet.rank": 2}, "two": {"hypernet.rank": 2}}},
            "ablate: rank/two changes nothing: it is the same as '2'; remove it",
        ),
        (
            {"base": {"hypernet.rank": 2}, "variants": {"4": {"hypernet.rank": 2}}},
            "ablate: rank/4 changes nothing: it is the same as its reference",
        ),
        ({"base": {"hypernet.rank": 4}, "variants": {"2": {"hypernet.rank": 2}}}, "ablate: rank/base changes nothing"),
        (
            {"variants": {"3": {"meta.modalities": 3}}},
            "ablate: rank/3: meta.modalities=3, but meta-training has 2 high-resource modalities: lower it",
        ),
        (
            {"variants": {"3": {"meta.encoders": 3}}},
            "ablate: rank/3: meta.encoders=3, but meta-training has 2 encoders of a modality: lower it, or add some",
        ),
        ({"variants": {"7": {"seed": 7}}}, "ablate: rank/7: seed cannot be varied: it must lie in one of projector, "),
        ({"variants": {"9": {"integrate.draws": 9}}}, "ablate: rank/9: integrate.draws cannot be varied"),
    ],
)
def test_a_variant_that_cannot_be_compared_is_one_line(factor: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}") as caught:
        resolve_factors(asked(factor))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ablate.factors": []}, "ablate.factors names nothing to vary"),
        ({"integrate.shots": [4, 8]}, "ablations compare at one support size: integrate.shots has 2"),
        ({"runtime.engine": "deepspeed", "runtime.zero_stage": 3}, "runtime.zero_stage=3 spreads the LLM over workers"),
    ],
)
def test_what_no_ablation_can_be_made_of(setting: dict[str, Any], message: str) -> None:
    config = asked({"variants": {"2": {"hypernet.rank": 2}}})
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve_factors(override(config, setting))


def test_the_yardstick_is_not_varied() -> None:
    variants = {"variants": {"audio": {"validation": ["audio"]}}}
    (factor,) = resolve_factors(asked(variants))
    assert [dataset.name for dataset in factor.variants[0].config.datasets_of("train")] == ["image"]
    scored = override(SMOKE, {"validation": ["image"], "evaluate.on": "validation"})
    with pytest.raises(ConfigError, match="validation cannot be varied"):
        resolve_factors(asked(variants, scored))


def test_names_of_factors_and_variants_are_told_apart() -> None:
    rank = FactorConfig(name="rank", variants={"2": {"hypernet.rank": 2}})
    for names in (("rank", "rank"), ("rank", "base")):
        with pytest.raises(ValueError, match="factors must have different names, none of them 'base'"):
            AblateConfig(factors=tuple(replace(rank, name=name) for name in names))
    with pytest.raises(ValueError, match="'base' is what the reference is called"):
        replace(rank, variants={"base": {"hypernet.rank": 2}})


def test_factors_share_a_reference_unless_they_have_one_of_their_own() -> None:
    config = override(
        SMOKE,
        {
            "ablate.factors": [
                {"name": "rank", "variants": {"2": {"hypernet.rank": 2}}},
                {"name": "kind", "base": {"hypernet.layers": 2}, "variants": {"2": {"hypernet.rank": 2}}},
                {"name": "encoders", "variants": {"1": {"meta.encoders": 1}}},
            ]
        },
    )
    factors = resolve_factors(config)
    keys = [variant.key for variant in all_variants(factors)]
    assert keys == ["base", "rank/2", "kind/base", "kind/2", "encoders/1"]
    base, kind = factors[0].reference, factors[1]
    assert base.config == SMOKE
    assert factors[2].reference is base
    changed = kind.variants[0].config
    assert (changed.hypernet.layers, changed.hypernet.rank) == (2, 2)
    assert (kind.reference.config.hypernet.layers, kind.reference.config.hypernet.rank) == (2, 4)


def test_the_preset_varies_what_it_says_in_the_demos_configuration() -> None:
    config = build_preset("ablations")
    factors = {factor.config.name: factor for factor in resolve_factors(config)}
    assert list(factors) == ["augmentation", "rank", "text-conditioning", "modalities", "encoders", "attention"]
    ranks = [variant.config.hypernet.rank for variant in factors["rank"].variants]
    assert [*ranks, config.hypernet.rank] == [4, 8, 16, 64, 32]
    assert len(config.read_by("meta", "train")) == 4
    read = [len(variant.config.read_by("meta", "train")) for variant in factors["modalities"].variants]
    assert read == [1, 2, 3]
    demo = build_preset("miniature")
    assert training_fingerprint("pretrain_projector", config, "up") == training_fingerprint(
        "pretrain_projector", demo, "up"
    )


def test_a_list_of_ones_own_replaces_the_presets(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    mine = {"factors": [{"name": "loops", "variants": {"short": {"meta.optim.steps": 20}}}]}
    file.write_text(yaml.safe_dump({"preset": "ablations", "ablate": mine}))
    config = load_config(file=file)
    assert [variant.key for variant in all_variants(resolve_factors(config))] == ["base", "loops/short"]
    assert to_tree(config)["ablate"]["factors"][0]["variants"] == {"short": {"meta.optim.steps": 20}}


def test_a_subset_of_modalities_and_encoders_is_read_by_meta_training_alone() -> None:
    config = override(SMOKE, {"meta.modalities": 1, "meta.encoders": 1})
    read = {dataset.name: [encoder.name for encoder in dataset.encoders] for dataset in config.read_by("meta", "train")}
    assert read == {"image": ["image-a"]}
    assert [len(dataset.encoders) for dataset in config.read_by("meta", "text")] == [1]
    assert config.read_by("pretrain", "train") == SMOKE.read_by("pretrain", "train") == SMOKE.datasets_of("train")
    assert training_fingerprint("pretrain_projector", config, "up") == training_fingerprint(
        "pretrain_projector", SMOKE, "up"
    )
    meta = [training_fingerprint("meta_train", one, "up") for one in (SMOKE, config)]
    assert meta[0] != meta[1]

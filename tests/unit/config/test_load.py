from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.load import ConfigError, flatten, load_config, override, to_tree, to_yaml
from pipeline.config.schema import ExperimentConfig

SMOKE = load_config(preset="smoke")

LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**40),
    "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    "hypernet.rank": st.integers(1, 10**6),
    "hypernet.kind": st.sampled_from(["attention", "equivariant"]),
    "hypernet.generate_bias": st.booleans(),
    "meta.optim.learning_rate": st.floats(1e-12, 1e3),
    "episodes.support_shots": st.lists(st.integers(1, 9999), min_size=1, max_size=4),
    "projector.hidden_width": st.none() | st.integers(1, 8192),
    "runtime.address": st.none() | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=30),
}
CHANGES = st.sampled_from(sorted(LEAVES)).flatmap(lambda path: st.tuples(st.just(path), LEAVES[path]))


def flow_yaml(value: Any) -> str:
    """The value as one line of YAML, as a user would quote it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def flat(config: ExperimentConfig) -> dict[str, Any]:
    return flatten(to_tree(config))


@given(st.lists(CHANGES, max_size=4))
def test_overrides_change_their_field_and_nothing_else(changes: list[tuple[str, Any]]) -> None:
    config = load_config(preset="smoke", overrides=[f"{path}={flow_yaml(value)}" for path, value in changes])
    assert flat(config) == flat(SMOKE) | dict(changes)


@given(st.lists(CHANGES, max_size=4))
def test_override_of_a_built_configuration_agrees_with_the_command_line(changes: list[tuple[str, Any]]) -> None:
    assert override(SMOKE, dict(changes)) == load_config(
        preset="smoke", overrides=[f"{path}={flow_yaml(value)}" for path, value in changes]
    )


@given(CHANGES)
def test_any_configuration_survives_yaml(tmp_path_factory: pytest.TempPathFactory, change: tuple[str, Any]) -> None:
    config = override(SMOKE, dict([change]))
    file = tmp_path_factory.mktemp("yaml") / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(file=file) == config


@given(st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(lambda key: key not in to_tree(SMOKE)["hypernet"]))
def test_unknown_key_fails_with_the_valid_ones(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key '{key}' in hypernet: .*valid keys: kind, rank, alpha, width"):
        load_config(preset="smoke", overrides=[f'hypernet={{"{key}": 1}}'])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meta.optim.stepz=3", "unknown key 'stepz' in meta.optim: did you mean 'steps'? valid keys: learning_rate, "),
        ("meta.rank=16", "unknown key 'rank' in meta: did you mean 'hypernet.rank'? valid keys: optim, "),
        ("sed=1", "unknown key 'sed' at the top level: did you mean 'seed'? valid keys: name, seed, "),
        ("miniature.sed=1", "unknown key 'sed' in miniature: did you mean 'seed'?"),
        (
            "datasets=[{nam: a}]",
            "unknown key 'nam' in datasets.0: did you mean 'name'? valid keys: name, kind, role, source,",
        ),
        ("seed=abc", "seed: expected a valid integer, got 'abc' (str)"),
        ("seed=true", "seed: expected a valid integer, got True (bool)"),
        ("seed='3'", "seed: expected a valid integer, got '3' (str)"),
        ("seed=3.0", "seed: expected a valid integer, got 3.0 (float)"),
        ("seed=-1", "seed: expected greater than or equal to 0, got -1 (int)"),
        ("name=5", "name: expected a valid string, got 5 (int)"),
        ("name=../up", "name: string should match pattern"),
        ("meta=null", "meta: expected an object, got None (NoneType)"),
        ("integrate.shots=32", "integrate.shots: expected a valid array, got 32 (int)"),
        ("integrate.shots=[8, 0]", "integrate.shots.1: expected a number of pairs from 1 on, or 'full', got 0"),
        ("hypernet.kind=mlp", "hypernet.kind: expected 'attention', 'transformer' or 'equivariant', got 'mlp' (str)"),
        (
            "pretrain.optim.learning_rate=.inf",
            "pretrain.optim.learning_rate: expected a finite number, got inf (float)",
        ),
        ("pretrain.optim.learning_rate=.nan", "pretrain.optim.learning_rate: expected "),
        ("llm.prompt=describe", "llm: prompt must contain '{soft}' exactly once, got 'describe'"),
        ("meta.optim.warmup_steps=99", "meta.optim: warmup_steps must be at most steps (4), got 99"),
        (
            "runtime={engine: local, zero_stage: 3}",
            "runtime: engine='local' serves no zero_stage=3: set engine='deepspeed', or leave zero_stage=3 out",
        ),
        (
            "runtime={engine: local, offload_optimizer: true}",
            "runtime: engine='local' serves no offload_optimizer=True: set engine='deepspeed'",
        ),
        (
            "runtime={engine: deepspeed, zero_stage: 0, offload_optimizer: true}",
            "runtime: offload_optimizer=True needs zero_stage 1, 2 or 3, got 0",
        ),
        ("runtime.zero_stage=4", "runtime.zero_stage: expected 0, 1, 2 or 3, got 4"),
        ("meta.micro_batches=0", "meta.micro_batches: expected greater than 0, got 0"),
        ("seed", "override 'seed' is not of the form a.b=value"),
        ("=3", "override '=3' is not of the form a.b=value"),
        ("a..b=3", "override 'a..b=3' is not of the form a.b=value"),
        ("seed=[", "override 'seed=[' is not valid YAML: "),
        (
            "hypernet={rank: 4, rank: 8}",
            "override 'hypernet={rank: 4, rank: 8}' is not valid YAML: key 'rank' is given",
        ),
    ],
)
def test_bad_override_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(preset="smoke", overrides=[text])
    assert "\n" not in str(caught.value)


def test_many_problems_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"missing; this field has no default; .*; and \d+ more$"):
        load_config(overrides=["seed=1"])


def test_same_named_datasets_are_refused() -> None:
    tree = to_tree(SMOKE)["datasets"]
    with pytest.raises(ConfigError, match="datasets must have different names, got image, image"):
        override(SMOKE, {"datasets": [tree[0], tree[0]]})


def test_same_named_encoders_are_refused() -> None:
    dataset = to_tree(SMOKE)["datasets"][0]
    dataset["encoders"] *= 2
    with pytest.raises(ConfigError, match="encoders of image must have different names"):
        override(SMOKE, {"datasets": [dataset]})


def test_scientific_notation_without_a_dot_is_a_number() -> None:
    config = load_config(preset="smoke", overrides=["meta.optim.learning_rate=3e-4"])
    assert config.meta.optim.learning_rate == pytest.approx(3e-4)


def test_partial_file_goes_on_top_of_its_preset_and_below_overrides(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: smoke\nseed: 5\nhypernet: {rank: 2, alpha: 2}\n", encoding="utf-8")
    config = load_config(file=file, overrides=["hypernet.rank=3"])
    assert (config.seed, config.hypernet.rank, config.hypernet.alpha) == (5, 3, 2.0)
    assert config.hypernet.width == SMOKE.hypernet.width
    assert load_config(preset="smoke", file=file).seed == 5


def test_preset_and_file_must_not_disagree(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: smoke\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the command line says 'miniature', .* says 'smoke'"):
        load_config(preset="miniature", file=file)


def test_a_partitioned_llm_cannot_be_compiled() -> None:
    together = ["runtime={engine: deepspeed, zero_stage: 3}", "llm.execution.compile=true"]
    for alone in together:
        load_config(preset="smoke", overrides=[alone])
    with pytest.raises(ConfigError, match="compile=true and runtime.zero_stage=3 exclude each other"):
        load_config(preset="smoke", overrides=together)


def test_unknown_preset_lists_the_presets() -> None:
    names = "miniature, smoke, paper_llama1b, sample_efficiency, ablations"
    with pytest.raises(ConfigError, match=f"preset: expected one of {names}, got 'nano'"):
        load_config(preset="nano")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: .*No such file"),
        (b"\xff\xfe", "cannot be read: .*utf-8"),
        (b"- 1\n- 2\n", "must hold a mapping of sections, got list"),
        (b"", "must hold a mapping of sections, got NoneType"),
        (b"a: [1,", "is not valid YAML: "),
        (b"preset: smoke\nseed: 1\nseed: 2\n", "is not valid YAML: key 'seed' is given twice"),
        (
            b"preset: smoke\nseed: !!python/object/apply:os.getcwd []\n",
            "is not valid YAML: could not determine a constr",
        ),
        (b"preset: smoke\n1: 2\n", "unknown key '1' at the top level"),
        (b"preset: smoke\nseed: 2020-01-01\n", "seed: expected a valid integer, got '2020-01-01'"),
    ],
)
def test_bad_file_is_one_clear_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "bad.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file=file)
    assert "\n" not in str(caught.value)

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.config.errors import ConfigError
from pipeline.config.load import override
from pipeline.config.presets import build_preset
from pipeline.config.space import Distribution, SearchSpace, load_space

ROOT = Path(__file__).resolve().parents[3]
BASE = build_preset("miniature")
SHIPPED = sorted((ROOT / "tune_spaces").glob("*.yaml"))


def parse(text: str, tmp_path: Path) -> SearchSpace:
    file = tmp_path / "space.yaml"
    file.write_text(text, encoding="utf-8")
    return load_space(file, BASE)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_space_fits_the_schema(file: Path) -> None:
    space = load_space(file, BASE)
    lowest = {path: distribution.extremes()[0] for path, distribution in space.space.items()}
    highest = {path: distribution.extremes()[-1] for path, distribution in space.space.items()}
    assert override(BASE, lowest) != override(BASE, highest)


def test_every_kind_is_read(tmp_path: Path) -> None:
    space = parse(
        """
        samples: 3
        space:
          meta.optim.learning_rate: {loguniform: [1e-5, 1e-2]}
          meta.optim.weight_decay: {uniform: [0, 0.5]}
          hypernet.rank: {integers: [2, 8]}
          hypernet.kind: {choice: [attention, equivariant]}
          episodes.support_shots: {choice: [[8], [8, 16]]}
        """,
        tmp_path,
    )
    assert space.space["meta.optim.learning_rate"].loguniform == (1e-5, 1e-2)
    assert space.space["meta.optim.weight_decay"].extremes() == (0.0, 0.5)
    assert space.space["hypernet.rank"].extremes() == (2, 8)
    assert space.space["episodes.support_shots"].choice == ((8,), (8, 16))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("meta.optim.learnin_rate: {uniform: [0.1, 1]}", "unknown key 'learnin_rate' in meta.optim: did you mean"),
        (
            "meta.optim.learning_rate: {logunifrm: [0.1, 1]}",
            "unknown key 'logunifrm' in space.meta.optim.learning_rate",
        ),
        ("meta.optim.learning_rate: {loguniform: [0.0, 1]}", "loguniform must start above 0, got [0.0, 1.0]"),
        ("meta.optim.learning_rate: {uniform: [1, 0.1]}", "uniform must be [lowest, highest] with lowest < highest"),
        ("meta.optim.learning_rate: {}", "give exactly one of grid, choice, uniform, loguniform, integers; got none"),
        ("hypernet.rank: {integers: [1, 2], choice: [1, 2]}", "give exactly one of"),
        ("hypernet.rank: {integers: [0, 4]}", "hypernet.rank: expected greater than 0, got 0 (int)"),
        ("hypernet.rank: {uniform: [1, 4]}", "hypernet.rank: expected a valid integer, got 1.0 (float)"),
        (
            "hypernet.kind: {choice: [attention, mlp]}",
            "hypernet.kind: expected 'attention', 'transformer' or 'equivariant', got 'mlp'",
        ),
        (
            "hypernet.kind: {choice: [attention]}",
            "space.hypernet.kind: choice needs two values or more, got ['attention']: put one under `fixed`",
        ),
        ("hypernet.rank: {grid: []}", "space.hypernet.rank.grid: expected a list of at least 1 value, got [] (list)"),
        ("projector.dropout: {uniform: [0.0, 1.5]}", "projector.dropout: expected less than or equal to 1, got 1.5"),
    ],
)
def test_bad_entry_is_one_clear_line(entry: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse(f"samples: 1\nspace: {{{entry}}}", tmp_path)
    assert str(caught.value).startswith("tune space ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("samples: 0\nspace: {seed: {integers: [0, 1]}}", "samples: expected greater than 0"),
        ("metric: loss\nspace: {seed: {integers: [0, 1]}}", "metric: expected 'attribute_accuracy' or 'cider_d'"),
        ("space: {}", "space is empty: give at least one field"),
        (
            "sample: 1\nspace: {seed: {integers: [0, 1]}}",
            "unknown key 'sample' at the top level: did you mean 'samples'?",
        ),
        ("search: grid\nspace: {seed: {integers: [0, 1]}}", "search 'grid' takes grids only, and seed is drawn"),
        ("search: optuna\nspace: {seed: {grid: [0, 1]}}", "search 'optuna' draws, and seed is a grid: use choice"),
        ("scheduler: asha\nspace: {seed: {grid: [0, 1]}}", "scheduler 'asha' compares trials at `rungs`"),
        ("scheduler: pbt\nspace: {seed: {grid: [0, 1]}}", "scheduler 'pbt' is left out"),
        ("rungs: [900]\nspace: {seed: {grid: [0, 1]}}", "rungs must lie below meta.optim.steps (500), got 900"),
        ("space: {evaluate.test_samples: {grid: [9, 10]}}", "evaluate.test_samples cannot be varied"),
        ("space: {seed: {grid: [0], when: {hypernet.rank: [4]}}}", "must be listed before it"),
        (
            "rungs: [60]\nspace: {meta.optim.steps: {integers: [55, 90]}}",
            "rungs must lie below meta.optim.steps (55), got 60",
        ),
        ("rungs: [30, 30]\nspace: {seed: {grid: [0]}}", "rungs must rise, got [30, 30]"),
        ("shortened: {seed: 1}\nspace: {seed: {grid: [0]}}", "seed stands in two of space, fixed and shortened"),
        (
            "space: {meta.optim.steps: {grid: [5, 90]}, meta.optim.warmup_steps: {grid: [2, 50]}}",
            "warmup_steps must be at most steps (5)",
        ),
        ("fixed: {meta.stepz: 3}\nspace: {seed: {grid: [0]}}", "unknown key 'stepz' in meta"),
    ],
)
def test_bad_file_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(text, tmp_path)


def test_distribution_is_checked_when_built_in_code() -> None:
    with pytest.raises(ValueError, match="integers must be"):
        Distribution(integers=(3, 3))

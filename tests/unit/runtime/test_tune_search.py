"""Proposals depend on the space, the number and the records alone; all of them are legal configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.presets import build_preset
from pipeline.config.schema import HypernetKind
from pipeline.config.space import Distribution, SearchSpace, load_space, trial_config
from pipeline.models.hypernet import build_hypernet
from pipeline.models.projector import Projector
from pipeline.runtime.tune_search import Observation, propose

ROOT = Path(__file__).resolve().parents[3]
BASE = build_preset("miniature")
SHIPPED = sorted((ROOT / "tune_spaces").glob("*.yaml"))
RATE, RANK, KIND, LAYERS = "meta.optim.learning_rate", "hypernet.rank", "hypernet.kind", "hypernet.layers"


def space(fields: dict[str, Distribution], **settings: Any) -> SearchSpace:
    return SearchSpace(space=fields, **settings)


def every_kind(search: Any) -> SearchSpace:
    fields = {
        KIND: Distribution(choice=("equivariant", "transformer")),
        LAYERS: Distribution(integers=(1, 3), when={KIND: ("transformer",)}),
        RATE: Distribution(loguniform=(1e-4, 1e-2)),
        "projector.dropout": Distribution(uniform=(0.0, 0.5)),
        "episodes.support_shots": Distribution(choice=((8,), (16, 32))),
    }
    return space(fields, search=search, samples=30)


def observed(space: SearchSpace, count: int, score: float = 0.5) -> list[Observation]:
    trials: list[Observation] = []
    for number in range(count):
        trials.append(Observation(values=propose(space, number, trials), scores=(score,)))
    return trials


def test_a_grid_is_walked_through_once_in_order() -> None:
    fields = {RANK: Distribution(grid=(4, 8)), "episodes.support_shots": Distribution(grid=((8,), (16,), (8, 16)))}
    sweep = space(fields, search="grid")
    points = [propose(sweep, number, []) for number in range(sweep.trials())]
    assert [(p[RANK], p["episodes.support_shots"]) for p in points] == [
        (rank, shots) for rank in (4, 8) for shots in ((8,), (16,), (8, 16))
    ]


def test_a_grid_that_does_not_apply_has_one_point() -> None:
    fields = {
        KIND: Distribution(grid=("equivariant", "transformer")),
        LAYERS: Distribution(grid=(1, 2, 3), when={KIND: ("transformer",)}),
    }
    sweep = space(fields, search="grid")
    assert [propose(sweep, number, []) for number in range(sweep.trials())] == [
        {KIND: "equivariant"},
        *({KIND: "transformer", LAYERS: layers} for layers in (1, 2, 3)),
    ]


def test_grids_are_crossed_with_draws() -> None:
    sweep = space({RANK: Distribution(grid=(4, 8)), RATE: Distribution(loguniform=(1e-4, 1e-2))}, samples=3)
    points = [propose(sweep, number, []) for number in range(sweep.trials())]
    assert [point[RANK] for point in points] == [4, 8] * 3
    assert len({point[RATE] for point in points}) == 6


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_draws_lie_in_their_ranges_and_conditions_hold(search: str) -> None:
    sweep = every_kind(search)
    draws = [dict(trial.values) for trial in observed(sweep, 30)]
    assert {draw[KIND] for draw in draws} == {"equivariant", "transformer"}
    assert all((LAYERS in draw) == (draw[KIND] == "transformer") for draw in draws)
    assert {draw[LAYERS] for draw in draws if LAYERS in draw} == {1, 2, 3}
    assert all(1e-4 <= draw[RATE] <= 1e-2 and 0.0 <= draw["projector.dropout"] <= 0.5 for draw in draws)
    assert {draw["episodes.support_shots"] for draw in draws} == {(8,), (16, 32)}
    # Uniform in the logarithm: about half of the draws lie below the geometric mean.
    if search == "random":
        assert 8 <= sum(draw[RATE] < 1e-3 for draw in draws) <= 22


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_the_same_records_give_the_same_proposal_and_another_number_another_one(search: str) -> None:
    sweep = every_kind(search)
    before = observed(sweep, 12)
    assert propose(sweep, 12, before) == propose(sweep, 12, list(before))
    assert propose(sweep, 12, before) != propose(sweep, 13, before)


def test_random_draws_do_not_depend_on_what_was_scored() -> None:
    sweep = every_kind("random")
    assert propose(sweep, 5, observed(sweep, 5, score=0.1)) == propose(sweep, 5, [])


def test_optuna_draws_near_what_scored_well() -> None:
    sweep = space({RATE: Distribution(uniform=(0.0, 1.0))}, search="optuna", samples=40)
    trials: list[Observation] = []
    for number in range(40):
        values = propose(sweep, number, trials)
        trials.append(Observation(values=values, scores=(-abs(values[RATE] - 0.8),)))
    last = [trial.values[RATE] for trial in trials[20:]]
    assert sum(abs(value - 0.8) < 0.2 for value in last) >= 14, last


def test_optuna_takes_two_objectives_and_trials_that_still_run() -> None:
    sweep = space({RANK: Distribution(integers=(1, 64))}, search="optuna", samples=20, against="deployed_parameters")
    trials = [Observation(values={RANK: rank}, scores=(0.5, 10.0 * rank)) for rank in range(1, 13)]
    trials.append(Observation(values={RANK: 20}, scores=None))
    assert 1 <= propose(sweep, 13, trials)[RANK] <= 64


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_draw_of_a_shipped_space_is_a_model(file: Path) -> None:
    sweep = load_space(file, BASE)
    kinds: set[HypernetKind] = set()
    for number in range(min(sweep.trials(), 25)):
        config = trial_config(BASE, sweep, propose(sweep, number, []))
        shape = config.projector
        projector = Projector(
            shape.input_width, 64, hidden_width=shape.hidden_width, soft_tokens=shape.soft_tokens, dropout=shape.dropout
        )
        assert sum(weight.numel() for weight in build_hypernet(config.hypernet, projector).parameters()) > 0
        kinds.add(config.hypernet.kind)
    assert len(kinds) == (3 if file.name == "full.yaml" else 1)

"""Plots and sections over several support sizes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config.schema import MethodName
from pipeline.evaluation.families import FAMILIES, OTHER, best_of_families, family_of, spread
from pipeline.evaluation.learning_curves import plot_learning_curves, plot_pareto, plot_shots_to_match
from pipeline.evaluation.protocol_sections import controls_table, cost_table, learning_curve_table, shots_to_match_table
from pipeline.evaluation.results import Result
from pipeline.evaluation.shots_to_match import shots_to_match
from pipeline.evaluation.summary import IntervalSettings, at_every_size, summarise
from tests.unit.evaluation.curves import make_curves

QUICK = IntervalSettings(resamples=200)
SCORES: dict[str, dict[int | None, float]] = {
    "semi": {8: 0.4, 32: 0.6, 128: 0.7, None: 0.8},
    "scratch": {8: 0.1, 32: 0.3, 128: 0.6, None: 0.9},
    "limber": {8: 0.2, 32: 0.35, 128: 0.5, None: 0.7},
    "random_lora": {8: 0.2, 32: 0.31, 128: 0.5, None: 0.7},
    "linear_probe": {8: 0.9, 32: 0.92, 128: 0.94, None: 0.96},
    "constant": {8: 0.1, 32: 0.1, 128: 0.1, None: 0.1},
    "semi_shuffled_text": {32: 0.2},
    "average_adapter": {32: 0.59},
}


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return make_curves(SCORES, noise=0.02)


def test_every_method_is_of_one_family() -> None:
    members = [method for family in FAMILIES for method in family.methods]
    assert sorted(members) == sorted(get_args(MethodName))
    assert family_of("semi_of_tomorrow") is OTHER
    assert len({family.colour for family in (*FAMILIES, OTHER)}) == len(FAMILIES) + 1
    assert len({family.marker for family in (*FAMILIES, OTHER)}) == len(FAMILIES) + 1


def test_the_best_of_each_family_are_shown_and_the_focus_always() -> None:
    scores = {"ridge": 0.5, "cca": 0.4, "procrustes": 0.6, "semi": 0.1, "semi_no_finetune": 0.2, "knn_1": 0.3}
    shown = best_of_families(scores, focus="semi", each=1)
    assert shown == ["procrustes", "knn_1", "semi_no_finetune", "semi"]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=25), st.floats(0.001, 0.2))
def test_labels_are_apart_in_order_and_inside(heights: list[float], gap: float) -> None:
    places = spread(heights, gap, 0.0, 1.0)
    apart = min(gap, 1.0 / max(len(heights) - 1, 1))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert (np.diff(sorted(places)) >= apart - 1e-9).all()
    order = np.argsort(heights, kind="stable")
    assert (np.diff(np.asarray(places)[order]) > 0).all()


def test_labels_that_do_not_collide_stay() -> None:
    assert spread([0.9, 0.1, 0.5], 0.05, 0.0, 1.0) == [0.9, 0.1, 0.5]


@pytest.mark.parametrize("attributes", [True, False])
@pytest.mark.parametrize("datasets", [("imu",), ("satellite", "imu")])
def test_plots_are_drawn(tmp_path: Path, attributes: bool, datasets: tuple[str, ...]) -> None:
    results = make_curves(SCORES, noise=0.02, attributes=attributes, datasets=datasets)
    summary = summarise(results, settings=QUICK)
    plot_learning_curves(summary, tmp_path / "curves.png")
    plot_shots_to_match(shots_to_match(results, settings=QUICK), "semi", tmp_path / "match.png")
    plot_pareto(summary, tmp_path / "pareto.png")
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 300 and np.asarray(picture.convert("L")).std() > 10
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_plots_that_have_nothing_to_show_say_so(tmp_path: Path) -> None:
    summary = summarise(make_curves({"semi": {32: 0.5}}), settings=QUICK)
    with pytest.raises(ValueError, match="a learning curve needs a method at 32 shots and one more size"):
        plot_learning_curves(summary, tmp_path / "x.png")
    with pytest.raises(ValueError, match="no results at 64 shots; there are at 32"):
        plot_pareto(summary, tmp_path / "x.png", shots=64)
    with pytest.raises(ValueError, match="semi is matched with no baseline"):
        plot_shots_to_match([], "semi", tmp_path / "x.png")


def test_curve_table_has_all_sizes_and_marks_the_best(results: list[Result]) -> None:
    text = learning_curve_table(summarise(results, settings=QUICK))
    assert "| method | 8 | 32 | 128 | full |" in text
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()[2:]}
    assert rows["SEMI"].count("**") == 6, "the best of 8, 32 and 128"
    assert "**" in rows["projector from scratch"].rsplit("|", 2)[1], "the best of `full`"
    assert "**" not in rows["linear probe of the attributes"], "an upper bound competes with nobody"
    assert rows["SEMI, shuffled text"].count("|  ") == 3, "nothing at the sizes that it was not scored at"


def test_sizes_that_a_modality_lacks_are_marked() -> None:
    results = [r for r in make_curves(SCORES) if not (r.dataset == "imu" and r.shots == 128)]
    text = learning_curve_table(summarise(results, settings=QUICK))
    assert "0.700***" in text and "not all modalities have so many pairs" in text


def test_match_table_shows_censored_values_and_ratios(results: list[Result]) -> None:
    text = shots_to_match_table(shots_to_match(results, settings=QUICK), "semi")
    assert re.search(r"\| most frequent caption \| > 3,000 \| \[> 3,000, > 3,000\] \| > 94 \| 2 \|", text)
    assert re.search(r"\| linear probe of the attributes \| < 8 \| \[< 8, < 8\] \| < 0\.25 \| 2 \|", text)
    assert re.search(r"\| projector from scratch \| 1\d\d \| \[\d+, \d+\] \| [34]\.\d\d \| 2 \|", text)
    assert "shuffled text" not in text.split("<details>")[0]
    assert "nothing to match" in shots_to_match_table([], "semi")


def test_cost_table_has_parameters_seconds_and_memory(results: list[Result]) -> None:
    text = cost_table(summarise(results, settings=QUICK))
    row = next(line for line in text.splitlines() if line.startswith("| SEMI |"))
    assert row.endswith("| 1,000 | 20,000 | 0.50 | 3 |")
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 2 + len(SCORES)


def test_controls_table_says_whether_intervals_are_apart(results: list[Result]) -> None:
    text = controls_table(summarise(results, settings=QUICK))
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| SEMI, shuffled text", "| mean of the training adapters"]
    assert rows[0].endswith("| yes |") and rows[1].endswith("| **no** |")
    assert "There are no controls at 8 pairs" in controls_table(summarise(results, settings=QUICK), shots=8)


def test_encoders_scored_at_one_size_are_left_out_of_curves() -> None:
    first = make_curves(SCORES)
    further = make_curves({"semi": {32: 0.0}}, encoders=("b",))
    assert at_every_size(first + further) == first

"""Tables and figures of ablations: pairing, signs, failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.ablation_plots import plot_factor
from pipeline.evaluation.ablations import FactorResults, VariantResults, compare, factor_table, render_ablations
from pipeline.evaluation.results import Result
from pipeline.evaluation.summary import IntervalSettings
from tests.unit.evaluation.conftest import MakeResults

SETTINGS = IntervalSettings(resamples=200)


def _of(results: Sequence[Result], method: str, name: str = "semi") -> list[Result]:
    """The results of a method, as another one's."""
    return [replace(result, method=name) for result in results if result.method == method]


@pytest.fixture
def factor(results: list[Result]) -> FactorResults:
    """Two methods; the variant `off` is SEMI with shuffled text, which is worse by a lot."""
    unchanged = _of(results, "scratch", "semi_no_finetune")
    base = [*_of(results, "semi"), *unchanged]
    return FactorResults(
        name="text",
        note="What to know.",
        reference=VariantResults(name="base", changes={}, results=base),
        variants=[
            VariantResults(
                name="off",
                changes={"hypernet.text_conditioning": False},
                results=[*_of(results, "semi_shuffled_text"), *unchanged],
            ),
            VariantResults(name="broken", changes={"episodes.isometry": "none"}, error="out of | memory"),
        ],
    )


def test_a_variant_is_compared_with_its_reference_pair_by_pair(factor: FactorResults, results: list[Result]) -> None:
    base, off, broken = compare(factor, SETTINGS).rows
    assert base.scores["semi"].difference is None
    score = off.scores["semi"]
    assert score.difference is not None
    wanted = np.mean([r.attribute_accuracy for r in _of(results, "semi_shuffled_text")]) - np.mean(
        [r.attribute_accuracy for r in _of(results, "semi")]
    )
    assert score.difference.mean == pytest.approx(wanted)
    assert score.difference.low <= score.difference.mean <= score.difference.high < 0
    assert score.mean.mean == pytest.approx(np.mean([r.attribute_accuracy for r in _of(results, "semi_shuffled_text")]))
    same = off.scores["semi_no_finetune"].difference
    assert same is not None and (same.low, same.mean, same.high) == (0.0, 0.0, 0.0)
    assert not broken.scores


def test_the_page_shows_every_variant_failures_too(factor: FactorResults) -> None:
    table = compare(factor, SETTINGS)
    lines = factor_table(table).splitlines()
    assert lines[0].startswith(
        "| variant | otherwise than base | SEMI: attribute accuracy | minus base | SEMI, no fine"
    )
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert lines[2].startswith("| base |  | 0.")
    assert lines[3].startswith("| off | `hypernet.text_conditioning=false` | 0.") and " | -0." in lines[3]
    assert lines[4].startswith(r"| broken | `episodes.isometry=none` | failed: out of \| memory |")
    page = render_ablations([table], {"text": "plots/text.png"}, title="Ablations", setting="Set.", origin="a commit")
    assert "**nothing may be selected by these tables**" in page
    assert "![text](plots/text.png)" in page and "What to know." in page


def test_without_attributes_captions_are_compared(make_results: MakeResults) -> None:
    results = make_results(attributes=False)
    variant = VariantResults(name="off", changes={"a.b": 1}, results=_of(results, "scratch"))
    reference = VariantResults(name="base", changes={}, results=_of(results, "semi"))
    table = compare(FactorResults(name="x", note="", reference=reference, variants=[variant]), SETTINGS)
    assert table.unit == "CIDEr-D"
    lines = factor_table(table).splitlines()
    assert lines[0] == "| variant | otherwise than base | SEMI: CIDEr-D | minus base |"
    difference = table.rows[1].scores["semi"].difference
    assert difference is not None and difference.high < 0


def test_without_its_reference_a_variant_has_a_score_but_no_difference(factor: FactorResults) -> None:
    failed = replace(factor, reference=replace(factor.reference, results=(), error="disk full"))
    base, off, _ = compare(failed, SETTINGS).rows
    assert (base.error, dict(base.scores)) == ("disk full", {})
    assert off.scores["semi"].difference is None


def test_the_figure_has_a_row_a_scored_variant(factor: FactorResults, tmp_path: Path) -> None:
    plot_factor(compare(factor, SETTINGS), tmp_path / "two.png", confidence=0.95)
    alone = replace(factor, variants=[])
    plot_factor(compare(alone, SETTINGS), tmp_path / "one.png", confidence=0.95)
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.width == one.width and two.height > one.height
        assert len(two.convert("RGB").getcolors(maxcolors=1 << 20) or ()) > 10
    nothing = replace(alone, reference=replace(factor.reference, results=(), error="no"))
    with pytest.raises(ValueError, match="text: no variant was scored"):
        plot_factor(compare(nothing, SETTINGS), tmp_path / "none.png", confidence=0.95)

"""The report's files, and what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pipeline.evaluation import plots
from pipeline.evaluation.markdown import table
from pipeline.evaluation.plots import Curve, plot_accuracy, plot_curves, smooth
from pipeline.evaluation.provenance import Commit
from pipeline.evaluation.report import RunFacts, report_json, write_report
from pipeline.evaluation.results import Result
from pipeline.evaluation.summary import IntervalSettings, summarise
from pipeline.evaluation.terminal import results_table

MakeResults = Callable[..., list[Result]]
QUICK = IntervalSettings(resamples=200)
FACTS = RunFacts(
    name="demo",
    commit=Commit("abc123", dirty=True),
    config_fingerprint="0123456789abcdef",
    seed=3,
    timings_s={"extract_embeddings": 12.3456, "meta_train": 60.0},
    peak_rss_bytes=3 * 2**30,
    notes={"hypernet": "equivariant"},
)
CURVE = Curve(label="equivariant", steps=range(50), values=[2 - i / 50 for i in range(50)])


@pytest.fixture(scope="module")
def report(results: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report") / "deep" / "demo"
    write_report(directory, results, FACTS, curves={"Meta-training loss": [CURVE]}, settings=QUICK)
    return directory


def test_json_has_every_promised_key(report: Path, results: list[Result]) -> None:
    data = json.loads((report / "report.json").read_text())
    cell = data["held_out"]["imu"]["semi"]["shots"]["32"]
    exact = np.mean([r.attribute_accuracy for r in results if (r.dataset, r.method) == ("imu", "semi")])
    assert cell["attribute_accuracy"] == pytest.approx(exact)
    low, high = cell["attribute_accuracy_interval"]
    assert low < cell["attribute_accuracy"] < high
    assert cell["cider_d_interval"][0] < cell["cider_d"] < cell["cider_d_interval"][1]
    assert set(cell["encoders"]) == {"imu-a", "imu-b"}
    assert data["mean"]["semi"]["shots"]["32"]["modalities"] == ["satellite", "imu"]
    assert data["comparisons"]["semi"]["scratch"]["shots"]["32"]["attribute_accuracy_interval"][0] > 0
    assert data["timings_s"] == {"extract_embeddings": 12.346, "meta_train": 60.0}
    assert data["peak_rss_bytes"] == 3 * 2**30
    assert (data["commit"], data["commit_dirty"]) == ("abc123", True)
    assert (data["config_fingerprint"], data["seed"]) == ("0123456789abcdef", 3)
    assert data["notes"] == {"hypernet": "equivariant"}


def test_json_without_attributes_is_valid_and_says_null(make_results: MakeResults) -> None:
    data = report_json(summarise(make_results(attributes=False), settings=QUICK), FACTS)
    cell = data["held_out"]["imu"]["semi"]["shots"]["32"]
    assert (cell["attribute_accuracy"], cell["attribute_accuracy_interval"]) == (None, None)
    json.dumps(data, allow_nan=False)


def test_markdown_shows_existing_plots_and_the_result(report: Path) -> None:
    text = (report / "report.md").read_text()
    images = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert images == ["plots/accuracy_32_shots.png", "plots/meta_training_loss.png"]
    for image in images:
        with Image.open(report / image) as picture:
            assert min(picture.size) > 300
    assert text.startswith("# demo\n\n**SEMI at 32 shots: attribute accuracy 0.")
    assert "minus projector from scratch: +0." in text
    assert "commit `abc123+dirty`" in text
    assert "3.00 GiB" in text


def test_markdown_ranks_methods_and_aligns_tables(report: Path) -> None:
    lines = (report / "report.md").read_text().splitlines()
    start = lines.index("## Mean over held-out modalities") + 4
    assert [line.split(" | ")[0] for line in lines[start : start + 3]] == [
        "| SEMI", "| projector from scratch", "| SEMI, shuffled text",
    ]  # fmt: skip
    widths = {line.count("|") for line in lines[start - 2 : start + 3]}
    assert len(widths) == 1


def test_markdown_cells_cannot_break_the_table() -> None:
    assert table(("a", "b"), [("x|y", "two\nlines")]) == "| a | b |\n| --- | --- |\n| x\\|y | two lines |"


def test_report_without_the_focus_method_or_curves(results: list[Result], tmp_path: Path) -> None:
    write_report(tmp_path, [r for r in results if r.method == "scratch"], FACTS, settings=QUICK)
    text = (tmp_path / "report.md").read_text()
    assert "There is nothing to compare with." in text
    assert json.loads((tmp_path / "report.json").read_text())["comparisons"] == {}


def test_terminal_table_fits_80_columns_and_shows_intervals(make_results: MakeResults) -> None:
    summary = summarise(make_results(shots=(32, 64)), settings=QUICK)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(results_table(summary))
    text = console.export_text()
    assert "…" not in text
    assert re.search(r"SEMI +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] +\d+\.\d", text)
    assert re.search(r"projector from scratch .* \+0\.\d{3} \[\+0\.\d{3}, \+0\.\d{3}\]", text)
    assert text.index("at 32 shots") < text.index("at 64 shots")


def test_terminal_table_wraps_long_names_and_cuts_no_number(make_results: MakeResults) -> None:
    rows = [
        replace(row, method="semi_other_support" if row.method == "scratch" else row.method) for row in make_results()
    ]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(results_table(summarise(rows, settings=QUICK)))
    text = console.export_text()
    assert "…" not in text
    assert re.search(r"SEMI, another .* \+0\.\d{3} \[\+0\.\d{3}, \+0\.\d{3}\]", text)


def test_terminal_table_without_attributes_shows_cider(make_results: MakeResults) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(results_table(summarise(make_results(attributes=False), settings=QUICK)))
    text = console.export_text()
    assert "attribute" not in text
    assert "…" not in text


def test_one_modality_without_attributes_makes_cider_the_metric_of_all(
    make_results: MakeResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*make_results(datasets=("satellite",)), *make_results(datasets=("imu",), attributes=False)]
    summary = summarise(rows, settings=QUICK)
    assert not summary.exact
    assert [column.header for column in results_table(summary).columns][1] == "CIDEr-D"
    drawn: list[tuple[str, bool]] = []
    panel = plots._panel

    def watched(axis: Any, title: str, *rest: Any) -> None:
        drawn.append((title, rest[-1]))
        panel(axis, title, *rest)

    monkeypatch.setattr(plots, "_panel", watched)
    plot_accuracy(summary, 32, tmp_path / "x.png")
    assert drawn == [("mean of 2 modalities", False), ("satellite", False), ("imu", False)]


def test_plot_of_a_size_without_results_names_the_sizes(results: list[Result], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no results at 64 shots; there are at 32"):
        plot_accuracy(summarise(results, settings=QUICK), 64, tmp_path / "x.png")


def test_plots_of_one_modality_and_of_cider(make_results: MakeResults, tmp_path: Path) -> None:
    for attributes in (True, False):
        summary = summarise(make_results(datasets=("imu",), attributes=attributes), settings=QUICK)
        plot_accuracy(summary, 32, tmp_path / f"{attributes}.png")
    pictures = [np.asarray(Image.open(path).convert("L")) for path in sorted(tmp_path.glob("*.png"))]
    assert len(pictures) == 2
    assert all(picture.std() > 10 for picture in pictures)


def test_smoothing_keeps_lines_ignores_a_spike_and_bridges_gaps() -> None:
    line = np.linspace(3.0, 1.0, 200)
    inner = slice(20, -20)
    assert smooth(line)[inner] == pytest.approx(line[inner], abs=0.02)
    wild = line.copy()
    wild[100], wild[50] = 50.0, np.nan
    assert smooth(wild)[inner] == pytest.approx(line[inner], abs=0.02)
    assert np.isnan(smooth(np.full(10, np.nan))).all()


def test_curves_with_gaps_and_one_point_are_drawn(tmp_path: Path) -> None:
    curves = [CURVE, Curve(label="diverged", steps=[0, 1, 2], values=[1.0, float("nan"), float("inf")])]
    plot_curves(curves, "loss", tmp_path / "two.png")
    plot_curves([Curve(label="short", steps=[0], values=[1.0])], "loss", tmp_path / "one.png")
    plot_curves([Curve(label="none", steps=[0, 1], values=[float("nan")] * 2)], "loss", tmp_path / "nan.png")
    assert len(list(tmp_path.glob("*.png"))) == 3

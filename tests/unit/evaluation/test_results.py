"""Result rows, their files, and the summary made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.evaluation.protocol import paired_difference
from pipeline.evaluation.results import Result, caption_table, load_results, save_results, score_captions
from pipeline.evaluation.summary import DEFAULT_INTERVALS, IntervalSettings, summarise

MakeResults = Callable[..., list[Result]]
QUICK = IntervalSettings(resamples=200)


def same(one: Result, other: Result) -> bool:
    for field in dataclasses.fields(Result):
        if field.name != "samples" and getattr(one, field.name) != getattr(other, field.name):
            return False
    ours, theirs = one.samples, other.samples
    if (ours.ids, ours.captions, ours.references) != (theirs.ids, theirs.captions, theirs.references):
        return False
    if (ours.attribute_accuracy is None) != (theirs.attribute_accuracy is None):
        return False
    equal = np.array_equal(ours.cider_d, theirs.cider_d)
    if ours.attribute_accuracy is not None and theirs.attribute_accuracy is not None:
        equal = equal and np.array_equal(ours.attribute_accuracy, theirs.attribute_accuracy)
    return equal


def test_results_survive_the_disk_exactly(results: list[Result], tmp_path: Path) -> None:
    save_results(tmp_path, results)
    loaded = load_results(tmp_path)
    assert len(loaded) == len(results)
    assert all(same(one, other) for one, other in zip(results, loaded, strict=True))


def test_a_dataset_without_attributes_survives_too(make_results: MakeResults, tmp_path: Path) -> None:
    plain = make_results(attributes=False)
    save_results(tmp_path, plain)
    loaded = load_results(tmp_path)
    assert loaded[0].attribute_accuracy is None
    assert loaded[0].per_attribute == {}
    assert all(same(one, other) for one, other in zip(plain, loaded, strict=True))


def test_recall_is_reported_where_all_results_have_it(results: list[Result], tmp_path: Path) -> None:
    scored = [
        dataclasses.replace(result, recall_at_1=10.0 * (1 + result.draw), recall_at_5=90.0)
        for result in results
        if result.method != "scratch"
    ]
    save_results(tmp_path, scored)
    assert all(same(one, other) for one, other in zip(scored, load_results(tmp_path), strict=True))
    means = summarise([*scored, *(r for r in results if r.method == "scratch")], settings=QUICK).means
    assert means["semi", 32].recall_at_1 == pytest.approx(20.0)
    assert means["semi", 32].recall_at_5 == pytest.approx(90.0)
    assert means["scratch", 32].recall_at_1 is None


def test_files_are_plain_tables_that_anything_can_read(results: list[Result], tmp_path: Path) -> None:
    save_results(tmp_path, results)
    frame = pq.read_table(tmp_path / "samples.parquet").to_pandas()
    of_one = frame[(frame.encoder == "imu-b") & (frame.method == "scratch") & (frame.draw == 1)]
    (result,) = [r for r in results if (r.encoder, r.method, r.draw) == ("imu-b", "scratch", 1)]
    assert of_one.attribute_accuracy.mean() == pytest.approx(result.attribute_accuracy)
    assert of_one.caption.tolist() == list(result.samples.captions)


def test_missing_files_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"results\.parquet is missing; run `python -m jobs.evaluate` first"):
        load_results(tmp_path)


def test_caption_table_lays_methods_side_by_side(results: list[Result]) -> None:
    columns = caption_table(results, samples=2)
    assert {len(values) for values in columns.values()} == {2 * 4 * 3}  # samples, encoders, methods
    first = [r for r in results if r.encoder == "satellite-a" and r.draw == 0]
    assert columns["method"][:3] == [r.method for r in first]
    assert columns["caption"][:6] == [r.samples.captions[i] for i in range(2) for r in first]
    assert columns["id"][:6] == ["satellite-0"] * 3 + ["satellite-1"] * 3


def test_one_caption_an_id() -> None:
    with pytest.raises(ValueError, match="satellite: need one caption an id, got 1 for 2"):
        score_captions(
            dataset="satellite", encoder="a", method="semi", shots=1, draw=0, seed=0, pairs=1, ids=["1", "2"],
            captions=["x"], references=[["x"]], truths=[{}], vocabulary={}, trained_parameters=0,
            deployed_parameters=0, seconds=0.0, peak_bytes=0,
        )  # fmt: skip


def test_cells_average_draws_and_encoders(results: list[Result]) -> None:
    summary = summarise(results, settings=QUICK)
    cell = summary.cells["satellite", "semi", 32]
    of_cell = [r for r in results if (r.dataset, r.method) == ("satellite", "semi")]
    assert cell.attribute_accuracy is not None
    assert cell.attribute_accuracy.mean == pytest.approx(np.mean([r.attribute_accuracy for r in of_cell]))
    assert cell.cider_d.mean == pytest.approx(np.mean([r.cider_d for r in of_cell]))
    assert cell.attribute_accuracy.low < cell.attribute_accuracy.mean < cell.attribute_accuracy.high
    assert (cell.draws, cell.test_samples, cell.trained_parameters, cell.seconds) == (3, 24, 200, 1.5)
    of_encoder = [r.attribute_accuracy for r in of_cell if r.encoder == "satellite-b" and r.attribute_accuracy]
    assert cell.encoders["satellite-b"]["attribute_accuracy"] == pytest.approx(np.mean(of_encoder))
    assert cell.per_attribute["size"] == pytest.approx(np.mean([r.per_attribute["size"] for r in of_cell]))


def test_the_mean_weighs_modalities_equally(results: list[Result]) -> None:
    summary = summarise(results, settings=QUICK)
    cells = [summary.cells[dataset, "scratch", 32].cider_d.mean for dataset in ("satellite", "imu")]
    assert summary.means["scratch", 32].cider_d.mean == pytest.approx(np.mean(cells))
    assert summary.means["scratch", 32].datasets == ("satellite", "imu")


def test_comparisons_are_paired_sample_by_sample(results: list[Result]) -> None:
    summary = summarise(results, settings=QUICK)
    assert [pair.baseline for pair in summary.comparisons] == ["semi_shuffled_text", "scratch"]
    matrices = {
        method: [
            np.mean(
                [
                    [
                        r.samples.cider_d
                        for r in results
                        if (r.dataset, r.encoder, r.method) == (dataset, f"{dataset}-{encoder}", method)
                    ]
                    for encoder in "ab"
                ],
                axis=0,
            )
            for dataset in ("satellite", "imu")
        ]
        for method in ("semi", "scratch")
    }
    expected = paired_difference(matrices["semi"], matrices["scratch"], resamples=200, confidence=0.95)
    assert summary.comparisons[1].cider_d == expected
    assert expected.low > 0


def test_order_of_draws_does_not_matter(results: list[Result]) -> None:
    reverse = sorted(results, key=lambda r: -r.draw)
    assert summarise(results, settings=QUICK).means["semi", 32] == summarise(reverse, settings=QUICK).means["semi", 32]


def test_a_size_that_one_modality_lacks_is_averaged_over_the_others(make_results: MakeResults) -> None:
    rows = [*make_results(shots=(32, 64)), *make_results(datasets=("digits",), shots=(32,))]
    summary = summarise(rows, settings=QUICK)
    assert summary.means["semi", 64].datasets == ("satellite", "imu")
    assert summary.means["semi", 32].datasets == ("satellite", "imu", "digits")
    assert summary.shots == [32, 64]
    assert summary.datasets == ["satellite", "imu", "digits"]


def test_datasets_without_attributes_take_part_in_cider_only(make_results: MakeResults) -> None:
    rows = [*make_results(datasets=("satellite",)), *make_results(datasets=("imu",), attributes=False)]
    mean = summarise(rows, settings=QUICK).means["semi", 32]
    with_attributes = summarise(make_results(datasets=("satellite",)), settings=QUICK).means["semi", 32]
    assert mean.attribute_accuracy == with_attributes.attribute_accuracy
    assert mean.cider_d != with_attributes.cider_d


def test_an_unknown_focus_compares_nothing(results: list[Result]) -> None:
    assert summarise(results, focus="other", settings=QUICK).comparisons == []


def test_default_interval_settings_are_used() -> None:
    assert (DEFAULT_INTERVALS.resamples, DEFAULT_INTERVALS.confidence) == (2000, 0.95)


def test_results_that_do_not_fit_together_are_refused(make_results: MakeResults) -> None:
    rows = make_results(datasets=("imu",))
    with pytest.raises(ValueError, match="no results"):
        summarise([])
    with pytest.raises(ValueError, match="imu, semi, 32 shots: two results for draw 0, seed 0 of encoder imu-a"):
        summarise([*rows, rows[0]])
    with pytest.raises(ValueError, match=r"every encoder needs the same draws \[1, 2\]"):
        summarise(rows[1:])
    with pytest.raises(ValueError, match="same test samples"):
        summarise(
            [
                *make_results(datasets=("imu",), encoders=("a",)),
                *make_results(datasets=("imu",), encoders=("b",), samples=5),
            ]
        )
    with pytest.raises(ValueError, match="share no dataset"):
        ours = [r for r in rows if r.method == "semi"]
        summarise([*ours, *(r for r in make_results(datasets=("satellite",)) if r.method == "scratch")])


def _with(result: Result, **changes: Any) -> Result:
    return dataclasses.replace(result, **changes)


def test_seeds_of_a_draw_are_averaged_before_the_bootstrap(results: list[Result]) -> None:
    ours = [r for r in results if r.method == "semi" and r.encoder.endswith("-a")]
    # The scores of another draw in the place of a second seed: any other scores on the same samples would do.
    seconds = [_with(ours[(place + 1) % 3 + place // 3 * 3], seed=1, draw=r.draw) for place, r in enumerate(ours)]
    one, both = summarise(ours, settings=QUICK), summarise([*ours, *seconds], settings=QUICK)
    cell, mean = one.cells["satellite", "semi", 32], both.cells["satellite", "semi", 32]
    assert mean.draws == cell.draws == 3
    assert mean.cider_d.mean == pytest.approx(cell.cider_d.mean)
    # Each row is now the mean of two draws: they differ less.
    assert mean.cider_d.high - mean.cider_d.low < cell.cider_d.high - cell.cider_d.low
    with pytest.raises(ValueError, match=r"satellite, semi, 32 shots: two results for draw 0, seed 0 of encoder"):
        summarise([*ours, ours[0]], settings=QUICK)


def test_all_pairs_are_the_last_size_and_called_full(tmp_path: Path, results: list[Result]) -> None:
    few = [r for r in results if r.draw == 0]
    everything = [_with(r, shots=None, pairs=500) for r in few]
    summary = summarise([*everything, *few], settings=QUICK)
    assert summary.shots == [32, None]
    save_results(tmp_path, everything)
    read = load_results(tmp_path)
    assert {(r.shots, r.pairs) for r in read} == {(None, 500)}
    with pytest.raises(ValueError, match="imu, semi, full shots: two results"):
        summarise([*few, *everything, *[r for r in everything if r.dataset == "imu"]], settings=QUICK)

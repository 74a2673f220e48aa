"""What `jobs.tune_methods` leaves: a table of all trials, and the winners' settings as a partial configuration."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.tune_methods import Key, write_results
from pipeline.adaptation.tuning import TUNED, Outcome, Trial, trials
from pipeline.config.load import load_config, override
from pipeline.config.presets import build_preset

TODO = [trial for method in TUNED for trial in trials(method, 3, 0)]


def outcomes(*lost: Key) -> dict[Key, Outcome]:
    """The second trial of each method is its best one, unless it is lost."""
    found: dict[Key, Outcome] = {}
    for trial in TODO:
        key = trial.method, trial.number
        found[key] = Outcome(error="it diverged") if key in lost else Outcome(score=(0.25, 0.75, 0.5)[trial.number])
    return found


def winner(method: str, number: int) -> Trial:
    return next(trial for trial in TODO if (trial.method, trial.number) == (method, number))


def test_best_yaml_gives_any_preset_the_winners_settings(tmp_path: Path) -> None:
    best = write_results(tmp_path, TODO, outcomes())
    assert {method: (trial.number, score) for method, (trial, score) in best.items()} == dict.fromkeys(TUNED, (1, 0.75))
    settings = {path: value for method in TUNED for path, value in winner(method, 1).overrides.items()}
    for preset in ("smoke", "miniature", "sample_efficiency"):
        config = load_config(preset=preset, file=tmp_path / "best.yaml")
        assert config == override(build_preset(preset), settings) != build_preset(preset)


def test_a_lost_trial_is_a_row_with_its_reason_and_never_the_best(tmp_path: Path) -> None:
    lost: list[Key] = [("semi", 1), *(("scratch", number) for number in range(3))]
    best = write_results(tmp_path, TODO, outcomes(*lost))
    assert best["semi"][0].number == 2 and "scratch" not in best
    rows = {(row["method"], row["trial"]): row for row in pq.read_table(tmp_path / "trials.parquet").to_pylist()}
    assert len(rows) == len(TODO)
    assert {key for key, row in rows.items() if row["score"] is None} == set(lost)
    assert rows["semi", 1]["error"] == "it diverged" and rows["semi", 0]["error"] is None
    config = load_config(preset="smoke", file=tmp_path / "best.yaml")
    assert config.evaluate.scratch == build_preset("smoke").evaluate.scratch, "the preset's, where none finished"


def test_no_winner_at_all_is_an_error_that_names_the_first_reason(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text("seed: 1")
    everything = [(trial.method, trial.number) for trial in TODO]
    with pytest.raises(ValueError, match="every trial was lost; the first one: it diverged"):
        write_results(tmp_path, TODO, outcomes(*everything))
    assert pq.read_table(tmp_path / "trials.parquet").num_rows == len(TODO)
    assert not (tmp_path / "best.yaml").exists()

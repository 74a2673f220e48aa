"""Records say what a sweep has done, and are all that it is resumed from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.config.space import Distribution, SearchSpace
from pipeline.runtime.tune_records import State, TrialRecord, TrialRecords, finished, pareto

RATE, SHOTS, LAYERS = "meta.optim.learning_rate", "episodes.support_shots", "hypernet.layers"
SPACE = SearchSpace(
    search="random",
    against="deployed_parameters",
    space={
        SHOTS: Distribution(choice=((8,), (16, 32))),
        RATE: Distribution(loguniform=(1e-4, 1e-2)),
        LAYERS: Distribution(integers=(1, 3), when={SHOTS: ((8,),)}),  # type: ignore[dict-item]
    },
)


def result(score: float, parameters: float = 100.0, steps: float = 10.0) -> dict[str, float]:
    return {"steps": steps, "score": score, "deployed_parameters": parameters, "seconds": 1.5}


def record(number: int, state: State = "finished", results: tuple[Any, ...] = (), **values: Any) -> TrialRecord:
    return TrialRecord(number=number, values=values, state=state, results=results)


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    records = TrialRecords(tmp_path, SPACE)
    written = records.put(
        TrialRecord(number=3, values={SHOTS: (16, 32), RATE: 3e-4}, state="stopped", results=(result(0.25),))
    )
    (again,) = TrialRecords(tmp_path, SPACE).all()
    assert again == written == TrialRecord.from_json(written.to_json())
    assert again.score == 0.25


def test_folders_say_number_and_values(tmp_path: Path) -> None:
    records = TrialRecords(tmp_path, SPACE)
    written = records.put(TrialRecord(number=7, values={SHOTS: (16, 32), RATE: 0.000312345, LAYERS: 2}))
    assert written.name == "0007-support_shots=16_32-learning_rate=0.000312-layers=2"
    assert (tmp_path / written.name / "trial.json").is_file()
    long = TrialRecord(number=8, values={f"a.{'x' * 30}{n}": "householder:4/.." for n in range(9)})
    assert len(long.name) <= 80 and "/" not in long.name and ":" not in long.name


def test_putting_a_record_again_replaces_it(tmp_path: Path) -> None:
    records = TrialRecords(tmp_path, SPACE)
    for state in ("running", "finished"):
        records.put(record(0, state, (result(0.5),)))  # type: ignore[arg-type]
    records.put(record(1, "running"))
    assert [one.state for one in TrialRecords(tmp_path, SPACE).all()] == ["finished", "running"]
    assert [one.number for one in records.unfinished()] == [1]
    assert records.get(1).number == 1


def test_a_search_learns_from_whole_trials_and_sees_running_ones(tmp_path: Path) -> None:
    records = TrialRecords(tmp_path, SPACE)
    records.put(record(0, "finished", (result(0.5, 200.0),)))
    records.put(record(1, "stopped", (result(0.1),)))
    records.put(record(2, "failed"))
    records.put(record(3, "running", (result(0.3),)))
    assert [one.scores for one in records.observations()] == [(0.5, 200.0), None]


def test_the_front_holds_what_no_other_trial_beats() -> None:
    trials = [
        record(0, results=(result(0.50, 100),)),
        record(1, results=(result(0.40, 100),)),  # the same size, worse
        record(2, results=(result(0.70, 300),)),
        record(3, results=(result(0.60, 400),)),  # larger, worse
        record(4, results=(result(0.20, 50),)),
        record(5, "stopped", (result(0.99, 10),)),
    ]
    assert [one.number for one in pareto(trials)] == [4, 0, 2]
    assert [one.number for one in finished(trials)] == [0, 1, 2, 3, 4]


def test_the_table_has_a_row_a_trial_and_a_column_a_field(tmp_path: Path) -> None:
    records = TrialRecords(tmp_path, SPACE)
    records.put(
        TrialRecord(number=0, values={SHOTS: (8,), RATE: 1e-3, LAYERS: 2}, state="finished", results=(result(0.5),))
    )
    records.put(TrialRecord(number=1, values={SHOTS: (16, 32), RATE: 2e-3}, state="failed", error="out of luck"))
    records.write_table(tmp_path / "trials.parquet")
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [json.loads(row[SHOTS]) for row in rows] == [[8], [16, 32]]
    assert [(row["number"], row["state"], row["score"], row[RATE], row[LAYERS]) for row in rows] == [
        (0, "finished", 0.5, 1e-3, 2),
        (1, "failed", None, 2e-3, None),
    ]
    assert [row["error"] for row in rows] == [None, "out of luck"]
    assert [row["folder"] for row in rows] == [records.folder(one).name for one in records.all()]

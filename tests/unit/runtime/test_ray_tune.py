"""What Tune is told and what is recorded of it, without a cluster; the whole is `tests/integration/test_tune.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.presets import build_preset
from pipeline.config.space import Distribution, SearchSpace
from pipeline.runtime.tune_records import TrialRecord, TrialRecords
from pipeline.runtime.tune_trial import sweep_config

RANK = "hypernet.rank"
SPACE = SearchSpace(
    search="grid", validation=("audio",), rungs=(1, 2), scheduler="asha", space={RANK: Distribution(grid=(2, 3, 4))}
)


@dataclass
class Told:
    """A watch that remembers, with what the records said at that moment."""

    records: TrialRecords
    events: list[tuple[str, int, str, int]] = field(default_factory=list)

    def _add(self, what: str, record: TrialRecord) -> None:
        known = self.records.get(record.number)
        self.events.append((what, record.number, known.state, len(known.results)))

    def begin(self, record: TrialRecord) -> None:
        self._add("begin", record)

    def report(self, record: TrialRecord) -> None:
        self._add("report", record)

    def end(self, record: TrialRecord) -> None:
        self._add(record.state, record)


@dataclass(eq=False)
class FakeTrial:
    """As much of a trial as schedulers look at."""

    trial_id: str
    status: str = "RUNNING"


def _ray_tune() -> Any:
    # Not above: Ray reads its environment when it is imported, and a cluster of another test wants a token in it.
    from pipeline.runtime import ray_tune

    return ray_tune


def source(folder: Path) -> tuple[Any, TrialRecords, Told]:
    config = sweep_config(build_preset("smoke"), SPACE)
    sweep = _ray_tune().Sweep(config=config, space=SPACE, root=folder, directory=folder)
    records = TrialRecords(folder / "trials", SPACE)
    told = Told(records)
    return _ray_tune()._Source(sweep, records, told), records, told


def result(steps: int, rung: int, score: float = 0.5) -> dict[str, Any]:
    return {"steps": float(steps), "rung": rung, "score": score, "deployed_parameters": 9.0, "seconds": 1.0, "pid": 1}


def test_a_trial_is_on_disk_before_tune_knows_it(tmp_path: Path) -> None:
    trials, _, told = source(tmp_path)
    handed = trials.suggest("a")
    assert handed is not None and handed["number"] == 0
    (stored,) = TrialRecords(tmp_path / "trials", SPACE).all()
    assert stored == TrialRecord.from_json(handed["record"]) == TrialRecord(number=0, values={RANK: 2})
    assert told.events == [("begin", 0, "running", 0)]


def test_every_result_counts_once_and_is_told_before_it_is_recorded(tmp_path: Path) -> None:
    trials, records, told = source(tmp_path)
    trials.suggest("a")
    trials.on_trial_result("a", result(1, 1, 0.1))
    trials.on_trial_result("a", result(1, 1, 0.1))  # a retry that found it done
    trials.on_trial_result("a", result(2, 3, 0.2))
    trials.on_trial_complete("a", result(4, 9, 0.3))  # Tune hands over the last one again
    record = records.get(0)
    assert [one["steps"] for one in record.results] == [1, 2, 4]
    assert (record.state, record.score, record.error) == ("finished", 0.3, None)
    assert told.events == [
        ("begin", 0, "running", 0),
        ("report", 0, "running", 0),
        ("report", 0, "running", 1),
        ("report", 0, "running", 2),
        ("finished", 0, "running", 3),
    ]


def test_how_trials_end(tmp_path: Path) -> None:
    trials, records, _ = source(tmp_path)
    for name in "abc":
        trials.suggest(name)
    trials.on_trial_complete("a", result(2, 3))  # by the scheduler
    trials.on_trial_complete("b", {"rung": 9, "score": -1.0, "error": "hypernet.rank=4096 is above"})
    trials.on_trial_complete("c", error=True)
    assert [(record.state, record.error) for record in records.all()] == [
        ("stopped", None),
        ("failed", "hypernet.rank=4096 is above"),
        ("failed", "its processes died, retries included; see --verbose"),
    ]
    assert records.get(1).results == ()


def test_what_a_killed_sweep_left_comes_first(tmp_path: Path) -> None:
    trials, _, _ = source(tmp_path)
    for name in "ab":
        trials.suggest(name)
    trials.on_trial_result("b", result(1, 1))
    trials.on_trial_complete("a", result(4, 9))
    # Killed here; a new process has the folder alone.
    again, records, told = source(tmp_path)
    numbers = [handed["number"] for handed in (again.suggest("c"), again.suggest("d")) if handed]
    assert numbers == [1, 2]
    again.on_trial_result("c", result(1, 1))
    assert [len(record.results) for record in records.all()] == [1, 1, 0]
    assert ("report", 1, "running", 1) not in told.events


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_schedulers_compare_at_every_rung(scheduler: str) -> None:
    space = SearchSpace(
        scheduler=scheduler,  # type: ignore[arg-type]
        rungs=(100, 110),
        space={RANK: Distribution(grid=(2, 3, 4))},
    )
    rule = _ray_tune()._scheduler(space)
    waiting = FakeTrial("waiting", status="PENDING")
    controller: Any = SimpleNamespace(get_live_trials=lambda: [waiting])
    trials: list[Any] = [FakeTrial(str(number)) for number in range(5)]
    for trial in trials:
        rule.on_trial_add(controller, trial)
    decisions: dict[int, list[str]] = {1: [], 3: []}
    for rung, scores in ((1, (0.5, 0.5, 0.5, 0.5, 0.5)), (3, (0.9, 0.8, 0.7, 0.6, 0.1))):
        for trial, score in zip(trials, scores, strict=True):
            decisions[rung].append(rule.on_trial_result(controller, trial, {"rung": rung, "score": score}))
    assert decisions[1] == ["CONTINUE"] * 5
    assert decisions[3][0] == "CONTINUE" and decisions[3][4] == "STOP"
    # At the end nobody is stopped any more: what is complete counts in full.
    assert rule.on_trial_result(controller, trials[0], {"rung": 9, "score": 0.0}) in ("CONTINUE", "STOP")


@pytest.mark.parametrize("scheduler", ["none", "asha", "median"])
def test_a_continued_sweep_compares_with_the_trials_before(scheduler: str, tmp_path: Path) -> None:
    space = SearchSpace(
        scheduler=scheduler,  # type: ignore[arg-type]
        rungs=(100,),
        space={RANK: Distribution(grid=(2, 3, 4))},
    )
    records = TrialRecords(tmp_path, space)
    for number, score in enumerate((0.5, 0.6, 0.7)):
        kept = {"steps": 100.0, "score": score, "deployed_parameters": 1.0, "seconds": 1.0}
        records.put(TrialRecord(number=number, values={RANK: number}, state="stopped", results=(kept,)))
    rule = _ray_tune()._informed(_ray_tune()._scheduler(space), records)
    controller: Any = SimpleNamespace(get_live_trials=list)
    worse, better = FakeTrial("worse"), FakeTrial("better")
    for trial in (worse, better):
        rule.on_trial_add(controller, trial)
    wanted = "CONTINUE" if scheduler == "none" else "STOP"
    assert rule.on_trial_result(controller, worse, {"rung": 1, "score": 0.1}) == wanted
    assert rule.on_trial_result(controller, better, {"rung": 1, "score": 0.9}) == "CONTINUE"


def test_failed_trials_are_tried_again_on_request_with_the_rungs_they_have(tmp_path: Path) -> None:
    trials, records, _ = source(tmp_path)
    for name in "abc":
        trials.suggest(name)
    trials.on_trial_complete("a", result(4, 9, 0.3))
    trials.on_trial_result("b", result(1, 1, 0.1))
    trials.on_trial_complete("b", {"rung": 9, "score": -1.0, "error": "[Errno 28] No space left on device"})
    trials.on_trial_complete("c", result(2, 3))
    before = records.all()
    assert [record.number for record in records.retry_failed()] == [1]
    again, after, told = source(tmp_path)
    assert [record.state for record in after.all()] == ["finished", "running", "stopped"]
    assert (after.get(0), after.get(2)) == (before[0], before[2])
    handed = again.suggest("d")
    assert handed is not None and handed["number"] == 1 and after.get(1).error is None
    again.on_trial_result("d", result(1, 1, 0.1))
    again.on_trial_complete("d", result(4, 9, 0.4))
    assert [one["steps"] for one in after.get(1).results] == [1, 4] and after.get(1).state == "finished"
    assert told.events == [("begin", 1, "running", 1), ("report", 1, "running", 1), ("finished", 1, "running", 2)]
    assert after.retry_failed() == []

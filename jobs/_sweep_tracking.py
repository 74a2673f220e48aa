"""What MLflow and the terminal are told of a sweep's trials: a child run each, and a progress line.

In: trial records as they begin, reach a rung and end.  Out: nothing; leaving the block ends what is still open.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from jobs._cli import Advance
from pipeline.runtime.tune_records import TrialRecord, TrialRecords
from pipeline.runtime.tune_trial import rung_dir
from pipeline.tracking import Tracker
from pipeline.training.metrics_log import METRICS, MetricsLog


def shown(value: float) -> float:
    """Four digits of it: the table of trials shows every digit that it is given; the trial's files have them all."""
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value, 1)


class SweepTracking:
    """The `Watch` of `jobs.tune`."""

    def __init__(self, tracker: Tracker, records: TrialRecords, advance: Advance, rungs: Sequence[int]) -> None:
        self._tracker, self._records, self._advance, self._rungs = tracker, records, advance, rungs
        self._open: dict[int, tuple[Tracker, ExitStack]] = {}

    def begin(self, record: TrialRecord) -> None:
        """Open the trial's run; by its number, so that a trial that goes on after a crash does so in the same one."""
        stack = ExitStack()
        child = self._tracker.child(record.name, "trial", record.values, key=f"{record.number:04d}")
        self._open[record.number] = (stack.enter_context(child), stack)

    def report(self, record: TrialRecord) -> None:
        """A rung's scores, and the losses on the way there."""
        child, result = self._open[record.number][0], record.results[-1]
        steps = int(result["steps"])
        child.log_metrics({name: shown(value) for name, value in result.items() if name != "steps"}, step=steps)
        curve = f"loss_at_rung_{steps}" if steps in self._rungs else "loss"
        log = MetricsLog(rung_dir(self._records.folder(record), steps) / "meta_train" / METRICS)
        for entry in log.read():
            child.log_metrics({curve: shown(entry["loss"])}, step=entry["step"])

    def end(self, record: TrialRecord) -> None:
        """Close the trial's run: FAILED where the trial failed; one that the scheduler stopped is FINISHED."""
        child, stack = self._open.pop(record.number)
        child.set_tags({"trial.state": record.state})
        failure = TrialFailedError(record.error) if record.state == "failed" else None
        stack.__exit__(type(failure) if failure else None, failure, None)
        note = f"score {record.score:.3f}" if record.score is not None else record.state
        self._advance(1, note=f"{record.name}: {note}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            _, (_, stack) = self._open.popitem()
            stack.__exit__(kind, error, trace)


class TrialFailedError(Exception):
    """Ends a trial's MLflow run as FAILED."""

"""A sweep on Ray Tune: Tune places, stops and retries trials; what they are is decided and recorded here.

In: a `Sweep` and what to do at each trial's begin, report and end.  Out: one record a trial.

A trial is a driver that starts a Ray Train run of its own. Records are written by this process alone, before Tune hears
of a trial, so that a killed sweep goes on with the very same trials.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from pipeline.config.schema import ExperimentConfig
from pipeline.config.space import SearchSpace, trial_config
from pipeline.runtime.session import Session
from pipeline.runtime.tune_budget import DRIVER_CPUS, Budget, Need, Node, plan
from pipeline.runtime.tune_records import TrialRecord, TrialRecords
from pipeline.runtime.tune_search import propose
from pipeline.runtime.tune_trial import TrialJob, run_trial, score_trial

_QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
_FAILED_SCORE = -1.0
OnTrial = Callable[[TrialRecord], None]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is searched, and where."""

    config: ExperimentConfig
    """What trials start from."""
    space: SearchSpace
    """What they change."""
    root: Path
    """The project's root."""
    directory: Path
    """Folder of the sweep, shared by all nodes."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which a trial is scored."""
        return (*self.space.rungs, self.config.meta.optim.steps)

    def job(self, record: TrialRecord, folder: Path) -> TrialJob:
        """A trial's work."""
        config = trial_config(self.config, self.space, record.values)
        return TrialJob(
            config=config,
            root=self.root,
            sweep_dir=self.directory,
            folder=folder,
            rungs=(*self.space.rungs, config.meta.optim.steps),
            metric=self.space.metric,
        )


def budget(sweep: Sweep, session: Session) -> Budget:
    """Trials at once on the cluster of this session; `ValueError` where not one fits."""
    import ray

    del session  # only to say that there must be one
    runtime = sweep.config.runtime
    workers = 1 if runtime.engine == "local" else runtime.workers
    nodes = [
        Node(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
    need = Need(workers=workers, cpus=runtime.cpus_per_worker, gpus=runtime.gpus_per_worker)
    return plan(sweep.space.trials(), need, nodes, limit=sweep.space.concurrent)


def run_sweep(
    sweep: Sweep, records: TrialRecords, *, concurrent: int, on_begin: OnTrial, on_report: OnTrial, on_end: OnTrial
) -> None:
    """Run what has no final record yet; a trial's own error is recorded and the others go on."""
    from ray import tune

    left = sweep.space.trials() - len([record for record in records.all() if record.state != "running"])
    if left <= 0:
        return
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    runtime = sweep.config.runtime
    resources = {"CPU": DRIVER_CPUS}
    if runtime.engine == "local":
        resources = {"CPU": runtime.cpus_per_worker, "GPU": runtime.gpus_per_worker}
    source = _Source(sweep, records, on_begin=on_begin, on_report=on_report, on_end=on_end)
    tuner = tune.Tuner(
        tune.with_resources(_driver(sweep), resources),
        tune_config=tune.TuneConfig(
            num_samples=left, max_concurrent_trials=concurrent, search_alg=source, scheduler=_scheduler(sweep)
        ),
        run_config=tune.RunConfig(
            name=f"attempt-{len(list((sweep.directory / 'ray').glob('attempt-*'))):03d}",
            storage_path=str(sweep.directory / "ray"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=runtime.max_failures),
        ),
    )
    tuner.fit()
    if unfinished := records.unfinished():
        # Tune returns normally after Ctrl-C.
        raise KeyboardInterrupt(f"{len(unfinished)} trials were interrupted")


def _driver(sweep: Sweep) -> Callable[[dict[str, Any]], None]:
    def drive(config: dict[str, Any]) -> None:
        import torch
        from ray import tune

        from pipeline.training.context import TrainingError

        runtime = sweep.config.runtime
        torch.set_num_threads(runtime.threads_per_worker)
        records = TrialRecords(sweep.directory / "trials", sweep.space)
        record = next(record for record in records.all() if record.number == config["number"])
        job = sweep.job(record, records.folder(record))
        try:
            for result in run_trial(job, score_trial if runtime.engine == "local" else _score_on_ray):
                tune.report(result)
        except (ValueError, OSError, TrainingError) as error:
            # No retry would mend it; a worker or node that died is another matter, and is Tune's.
            tune.report({"steps": float(job.rungs[-1]), "score": _FAILED_SCORE, "error": " ".join(str(error).split())})

    return drive


def _score_on_ray(config: ExperimentConfig, root: Path, folder: Path, metric: str) -> dict[str, float]:
    """In a task that takes the place of a worker, which is free again: a driver has no CPU to speak of."""
    import ray

    runtime = config.runtime
    task: Any = ray.remote(_score_single_threaded).options(
        num_cpus=runtime.cpus_per_worker,
        num_gpus=runtime.gpus_per_worker,
        max_retries=runtime.max_failures,
        scheduling_strategy="SPREAD",  # else it would wait inside the driver's own tiny share
    )
    try:
        scores: dict[str, float] = ray.get(task.remote(config, root, folder, metric))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError | OSError):
            raise error.cause from error
        raise
    return scores


def _score_single_threaded(config: ExperimentConfig, root: Path, folder: Path, metric: str) -> dict[str, float]:
    import torch

    torch.set_num_threads(config.runtime.threads_per_worker)
    return score_trial(config, root, folder, metric)


def _scheduler(sweep: Sweep) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

    rungs = sweep.rungs
    if sweep.space.scheduler == "asha":
        return ASHAScheduler(
            time_attr="steps", metric="score", mode="max", max_t=rungs[-1], grace_period=rungs[0], reduction_factor=3,
            stop_last_trials=False,
        )  # fmt: skip
    if sweep.space.scheduler == "median":
        return MedianStoppingRule(time_attr="steps", metric="score", mode="max", grace_period=0, min_samples_required=3)
    return FIFOScheduler()


class _Source(Searcher):
    """Hands trials to Tune, unfinished ones first, and records what becomes of them."""

    def __init__(
        self, sweep: Sweep, records: TrialRecords, *, on_begin: OnTrial, on_report: OnTrial, on_end: OnTrial
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._sweep, self._records = sweep, records
        self._on_begin, self._on_report, self._on_end = on_begin, on_report, on_end
        self._again = [record.number for record in records.unfinished()]
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial, on disk before Tune knows it."""
        records = self._records
        if self._again:
            number = self._again.pop(0)
            record = next(record for record in records.all() if record.number == number)
        else:
            number = len(records.all())
            values = propose(self._sweep.space, number, records.observations())
            record = records.put(TrialRecord(number=number, values=values))
        self._numbers[trial_id] = number
        self._on_begin(record)
        return {"number": number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A rung's scores."""
        if "error" not in result and "score" in result:
            kept = ("steps", "score", "deployed_parameters", "seconds")
            number = self._numbers[trial_id]
            before = next(record for record in self._records.all() if record.number == number)
            if any(known["steps"] == result["steps"] for known in before.results):
                return
            self._on_report(self._records.reported(number, {key: float(result[key]) for key in kept}))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial's last word."""
        number = self._numbers.pop(trial_id)
        if result is not None:
            self._numbers[trial_id] = number
            self.on_trial_result(trial_id, result)
            del self._numbers[trial_id]
        if error or result is None:
            record = self._records.ended(number, "failed", "its processes died, retries included; see --verbose")
        elif "error" in result:
            record = self._records.ended(number, "failed", str(result["error"]))
        else:
            record = self._records.ended(number, "finished" if result["steps"] >= self._last(number) else "stopped")
        self._on_end(record)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""

    def _last(self, number: int) -> int:
        record = next(record for record in self._records.all() if record.number == number)
        return self._sweep.job(record, self._records.folder(record)).rungs[-1]

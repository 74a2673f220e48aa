"""A sweep on Ray Tune: Tune places, stops and retries trials; what they are is decided and recorded here.

In: a `Sweep`, and who watches its trials.  Out: one record a trial.

A trial is a driver that starts a Ray Train run of its own. Records are written by this process alone, before Tune hears
of a trial, so that a killed sweep goes on with the very same trials.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.tune.search import Searcher

from pipeline.config.schema import ExperimentConfig
from pipeline.config.space import SearchSpace, trial_config
from pipeline.runtime.capacity import bundle, scaled_up
from pipeline.runtime.session import connected
from pipeline.runtime.shared import own_root, require_shared
from pipeline.runtime.tune_budget import DRIVER_CPUS, Budget, Need, Node, plan
from pipeline.runtime.tune_records import State, TrialRecord, TrialRecords, Watch
from pipeline.runtime.tune_search import propose
from pipeline.runtime.tune_trial import TrialJob, run_trial, score_trial

_QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
_FAILED_SCORE = -1.0
_REDUCTION = 3
"""ASHA lets the best third of the trials go on at each rung."""
_KEPT = ("steps", "score", "deployed_parameters", "seconds")


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

    def job(self, record: TrialRecord) -> TrialJob:
        """A trial's work; `ConfigError` where its values exclude each other."""
        config = trial_config(self.config, self.space, record.values)
        return TrialJob(
            config=config,
            root=own_root(self.root),
            sweep_dir=self.directory,
            folder=self.directory / "trials" / record.name,
            rungs=(*self.space.rungs, config.meta.optim.steps),
            metric=self.space.metric,
        )


def budget(sweep: Sweep) -> Budget:
    """Trials at once on the cluster of the open session; `ValueError` where not one fits."""
    runtime = sweep.config.runtime
    workers = 1 if runtime.engine == "local" else runtime.workers
    trials = min(sweep.space.trials(), sweep.space.concurrent or sweep.space.trials())
    worker = bundle(cpus=runtime.cpus_per_worker, gpus=runtime.gpus_per_worker)
    scaled_up(connected(), runtime, [bundle(cpus=trials * DRIVER_CPUS), *[worker] * (workers * trials)])
    nodes = [
        Node(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
    need = Need(workers=workers, cpus=runtime.cpus_per_worker, gpus=runtime.gpus_per_worker)
    return plan(sweep.space.trials(), need, nodes, limit=sweep.space.concurrent)


def run_sweep(sweep: Sweep, records: TrialRecords, watch: Watch, *, concurrent: int) -> None:
    """Run what has no final record yet; a trial's own error is recorded and the others go on."""
    from ray import tune

    require_shared(sweep.directory)
    left = sweep.space.trials() - len([record for record in records.all() if record.state != "running"])
    if left <= 0:
        return
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    runtime = sweep.config.runtime
    resources = {"CPU": DRIVER_CPUS}
    if runtime.engine == "local":
        resources = {"CPU": runtime.cpus_per_worker, "GPU": runtime.gpus_per_worker}
    attempts = len(list((sweep.directory / "ray").glob("attempt-*")))
    tuner = tune.Tuner(
        tune.with_resources(_driver(sweep), resources),
        tune_config=tune.TuneConfig(
            num_samples=left,
            max_concurrent_trials=concurrent,
            search_alg=_Source(sweep, records, watch),
            scheduler=_informed(_scheduler(sweep.space), records),
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=f"attempt-{attempts:03d}",
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

        runtime = sweep.config.runtime
        torch.set_num_threads(runtime.threads_per_worker)
        score = score_trial if runtime.engine == "local" else _score_on_ray
        try:
            results = run_trial(sweep.job(TrialRecord.from_json(config["record"])), score)
            for number, result in enumerate(results):
                tune.report({**result, "rung": _REDUCTION**number})
        except RayError:
            raise  # a worker or node that died: Tune tries again
        except Exception as error:  # noqa: BLE001 - no retry would mend it, and the other trials go on
            text = " ".join(str(error).split()) or type(error).__name__
            tune.report({"rung": _last_rung(sweep.space), "score": _FAILED_SCORE, "error": text})

    return drive


def _score_on_ray(config: ExperimentConfig, root: Path, folder: Path, metric: str) -> dict[str, float]:
    """In a task that takes the place of a worker, which is free again: a driver has no CPU to speak of."""
    runtime = config.runtime
    task: Any = ray.remote(_score_single_threaded).options(
        num_cpus=runtime.cpus_per_worker,
        num_gpus=runtime.gpus_per_worker,
        max_retries=runtime.max_failures,
        scheduling_strategy="SPREAD",  # else it would wait inside the driver's own tiny share
    )
    try:
        scores: dict[str, float] = ray.get(task.remote(config, root, folder, metric))
    except RayTaskError as error:
        raise error.cause or error from error
    return scores


def _score_single_threaded(config: ExperimentConfig, root: Path, folder: Path, metric: str) -> dict[str, float]:
    import torch

    torch.set_num_threads(config.runtime.threads_per_worker)
    return score_trial(config, own_root(root), folder, metric)


def _last_rung(space: SearchSpace) -> int:
    return int(_REDUCTION ** len(space.rungs))


def _scheduler(space: SearchSpace) -> Any:
    """Compares trials at the same place of `rungs`, whatever steps those are: ASHA's own rungs are powers."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

    common = {"time_attr": "rung", "metric": "score", "mode": "max", "grace_period": 1}
    if space.scheduler == "asha":
        return ASHAScheduler(**common, max_t=_last_rung(space), reduction_factor=_REDUCTION, stop_last_trials=False)
    if space.scheduler == "median":
        # No time slices: a trial that is paused for another one has no snapshot to go on from.
        return MedianStoppingRule(**common, min_samples_required=3, min_time_slice=math.inf)
    return FIFOScheduler()


@dataclass(eq=False)
class _Done:
    """As much as a scheduler looks at of a trial that an earlier attempt has ended."""

    trial_id: str
    status: str = "TERMINATED"


def _informed(scheduler: Any, records: TrialRecords) -> Any:
    """The scheduler, told of earlier attempts' trials: those to come are compared with them too."""
    nobody = SimpleNamespace(get_live_trials=list)
    for record in records.all():
        if record.state in ("finished", "stopped"):
            trial = _Done(record.name)
            scheduler.on_trial_add(nobody, trial)
            for number, result in enumerate(record.results):
                scheduler.on_trial_result(nobody, trial, {"rung": _REDUCTION**number, "score": result["score"]})
    return scheduler


class _Source(Searcher):
    """Hands trials to Tune, unfinished ones first, and records what becomes of them."""

    def __init__(self, sweep: Sweep, records: TrialRecords, watch: Watch) -> None:
        super().__init__(metric="score", mode="max")
        self._sweep, self._records, self._watch = sweep, records, watch
        self._again = [record.number for record in records.unfinished()]
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial, on disk before Tune knows it."""
        records = self._records
        if self._again:
            record = records.get(self._again.pop(0))
        else:
            number = len(records.all())
            values = propose(self._sweep.space, number, records.observations())
            record = records.put(TrialRecord(number=number, values=values))
        self._numbers[trial_id] = record.number
        self._watch.begin(record)
        return {"number": record.number, "record": record.to_json()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A rung's scores; a retry, and Tune itself at the end, say the same again, which counts once."""
        if "error" in result or "score" not in result:
            return
        before = self._records.get(self._numbers[trial_id])
        if all(known["steps"] < result["steps"] for known in before.results):
            record = replace(before, results=(*before.results, {key: float(result[key]) for key in _KEPT}))
            self._watch.report(record)
            self._records.put(record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial's last word."""
        if result is not None:
            self.on_trial_result(trial_id, result)
        before = self._records.get(self._numbers.pop(trial_id))
        state: State = "failed"
        why: str | None = "its processes died, retries included; see --verbose"
        if result is not None and not error:
            whole = result["rung"] >= _last_rung(self._sweep.space)
            state, why = (
                ("failed", str(result["error"])) if "error" in result else ("finished" if whole else "stopped", None)
            )
        record = replace(before, state=state, error=why)
        self._watch.end(record)
        self._records.put(record)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing for Tune's snapshots: the records are the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the records are the state."""

"""Runs in MLflow: a parent a pipeline run, a child a stage.

In: what a `Tracker` is told.  Out: a run that always ends as FINISHED, FAILED or KILLED.

Once a run has begun, a store that is away costs messages, never the run's work.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.tracking.base import Kind, RunHandle
from pipeline.tracking.buffer import MetricBuffer, Point
from pipeline.tracking.params import flatten, redact
from pipeline.tracking.store import Store, process_tag, store_errors

_log = logging.getLogger(__name__)
_SYSTEM_METRICS_S = 5.0
KEY_TAG = "mlflow.semi.key"
"""What a continued run is found by."""
_STOPPED = (None, 0, 130, 143)
"""Exit codes of a run that was told to stop: Ray answers Ctrl-C with 0; 128 + signal."""


class MlflowTracker:
    """One run, made when something is logged to it or a stage begins: a pipeline that skips everything leaves none."""

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        spill_dir: Path,
        tags: Mapping[str, str] | None = None,
        params: object = None,
        run_id: str | None = None,
        is_stage: bool = False,
        is_trial: bool = False,
    ) -> None:
        self._store, self._name, self._spill_dir = store, name, spill_dir
        self._tags, self._pending = dict(tags or {}), flatten({} if params is None else params)
        self._run_id, self._owned, self._is_stage = run_id, run_id is None or is_trial, is_stage
        self._is_trial = is_trial
        self._params: dict[str, str] | None = None
        self._buffer: MetricBuffer | None = None
        self._monitor: Any = None
        self._lock = threading.RLock()

    @property
    def handle(self) -> RunHandle:
        """What `attach` needs; makes the run."""
        return RunHandle(run_id=self._begun(), uri=self._store.uri, spill_dir=self._spill_dir)

    def stage(self, name: str, params: Mapping[str, object] | None = None) -> MlflowTracker:
        """A child run, made when it is entered."""
        inherited = {key: value for key, value in self._tags.items() if key not in _OWN_TAGS}
        return MlflowTracker(
            self._store,
            name=name,
            spill_dir=self._spill_dir,
            tags=inherited | {"mlflow.parentRunId": self._begun()},
            params=params,
            is_stage=True,
        )

    def child(
        self, name: str, kind: Kind, params: Mapping[str, object] | None = None, *, key: str | None = None
    ) -> MlflowTracker:
        """A child run; with a `key` that the store knows it goes on in that run."""
        if kind == "stage" or key is None:
            return self.stage(name, params)
        inherited = {key: value for key, value in self._tags.items() if key not in _OWN_TAGS}
        parent = self._begun()
        return MlflowTracker(
            self._store,
            name=name,
            spill_dir=self._spill_dir,
            tags=inherited | {"mlflow.parentRunId": parent, KEY_TAG: key},
            params=params,
            run_id=self._store.find(KEY_TAG, key),
            is_trial=True,
        )

    def log_params(self, values: Mapping[str, object]) -> None:
        """Each name once; MLflow's params cannot be changed."""
        run_id, flat = self._begun(), flatten(values)
        with self._lock:
            if self._params is None:
                self._params = dict(self._store.client.get_run(run_id).data.params)
            for name, value in flat.items():
                if self._params.get(name, value) != value:
                    raise ValueError(
                        f"param {name!r} of run {self._name!r} is already {self._params[name]!r} and cannot become "
                        f"{value!r}; log it under another name, or as a metric"
                    )
            new = {name: value for name, value in flat.items() if name not in self._params}
            self._guarded("params", lambda: self._send_params(run_id, new))
            self._params |= new

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Buffered."""
        self._metric_buffer().add(values, step)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies now; a folder keeps its name."""
        if not path.exists():
            raise FileNotFoundError(f"artifact {path} does not exist")
        client, run_id = self._store.client, self._begun()
        if path.is_dir():
            target = f"{folder}/{path.name}" if folder else path.name
            self._guarded(f"artifacts {path.name}", lambda: client.log_artifacts(run_id, str(path), target))
        else:
            self._guarded(f"artifact {path.name}", lambda: client.log_artifact(run_id, str(path), folder))

    def log_table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Stored as `<name>.json`, which MLflow shows as a table."""
        lengths = {column: len(values) for column, values in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"table {name!r} needs columns of one length, got {lengths}")
        data = {column: list(values) for column, values in columns.items()}
        run_id, file = self._begun(), f"{name.removesuffix('.json')}.json"
        self._guarded(f"table {name}", lambda: self._store.client.log_table(run_id, data, file))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets or replaces."""
        from mlflow.entities import RunTag

        run_id = self._begun()
        entities = [RunTag(name, redact(value)) for name, value in tags.items()]
        self._guarded("tags", lambda: self._store.client.log_batch(run_id, tags=entities))

    def describe(self, markdown: str) -> None:
        """The text on the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def flush(self) -> None:
        """Writes the metrics that are buffered."""
        if self._buffer is not None:
            self._buffer.flush()

    def __enter__(self) -> Self:
        if self._is_trial and self._run_id is not None:
            run_id = self._run_id
            self._guarded("state", lambda: self._store.client.update_run(run_id, status="RUNNING"))
            self.set_tags(process_tag())
        elif self._is_stage or self._is_trial:
            self._begun()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run_id is None:
            return
        try:
            if self._buffer is not None:
                self._buffer.close()
            if self._monitor is not None:
                self._monitor.finish()
        finally:
            if self._owned:
                if isinstance(error, Exception):
                    self.set_tags({"error": f"{type(error).__name__}: {error}"[:500]})
                run_id, status = self._run_id, _status(error)
                self._guarded("final state", lambda: self._store.client.set_terminated(run_id, status=status))

    def _begun(self) -> str:
        """The run's id; the first call makes the run."""
        with self._lock:
            if self._run_id is None:
                # Both may raise: a store that was never there is a user's error, and the time to say so is now.
                experiment_id, client = self._store.experiment_id, self._store.client
                run = client.create_run(experiment_id, run_name=self._name, tags=self._tags | process_tag())
                self._run_id = run.info.run_id
                self._params = dict(self._pending)
                self._guarded("params", lambda: self._send_params(run.info.run_id, self._pending))
                if self._is_stage:
                    self._guarded("system metrics", self._watch_system)
            return self._run_id

    def _send_params(self, run_id: str, flat: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        # Cut into requests of a legal size by the client.
        self._store.client.log_batch(run_id, params=[Param(name, value) for name, value in flat.items()])

    def _metric_buffer(self) -> MetricBuffer:
        run_id = self._begun()
        with self._lock:
            if self._buffer is None:
                self._buffer = MetricBuffer(
                    lambda points: self._send_metrics(run_id, points),
                    spill=self._spill_dir / f"unsent-metrics-{run_id}.jsonl",
                    errors=store_errors(),
                )
            return self._buffer

    def _send_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(point.name, point.value, point.timestamp_ms, point.step) for point in points]
        self._store.client.log_batch(run_id, metrics=metrics)

    def _watch_system(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(
            self._run_id, sampling_interval=_SYSTEM_METRICS_S, tracking_uri=self._store.uri
        )
        self._monitor.start()

    def _guarded(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except store_errors() as error:
            _log.error("tracking: %s of run %r was not stored: %s", what, self._name, redact(str(error)))


_OWN_TAGS = frozenset({"mlflow.parentRunId", KEY_TAG})


def _status(error: BaseException | None) -> str:
    if error is None:
        return "FINISHED"
    stopped = isinstance(error, SystemExit) and error.code in _STOPPED
    return "KILLED" if stopped or isinstance(error, KeyboardInterrupt | GeneratorExit) else "FAILED"

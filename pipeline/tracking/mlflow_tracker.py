"""Runs in MLflow: a parent a pipeline run or a sweep, children below it.

In: what a `Tracker` is told.  Out: a run that always ends as FINISHED, FAILED or KILLED.

Whatever is told goes to a file and is delivered from there (`spool`, `delivery`): once the first run has begun, a store
that is away costs nothing but time at the very end.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.tracking.base import Kind, RunHandle, final_status
from pipeline.tracking.delivery import Delivery, deliver_abandoned
from pipeline.tracking.params import flatten, redact
from pipeline.tracking.spool import Spool, any_waiting
from pipeline.tracking.store import (
    KEY_TAG,
    PROCESS_TAG,
    Store,
    is_alive_elsewhere,
    process_tag,
    quiet_mlflow,
    store_errors,
)
from pipeline.tracking.system import SystemMetrics
from pipeline.tracking.views import view_key, view_page

_log = logging.getLogger(__name__)
PATIENCE_S = 60.0
"""How long the end of a job waits for a store that is away (a request alone may take 20 s, a pause between two 15 s);
what waits longer is delivered by the next job."""
BUSY_FACTOR = 3
"""A SQLite file is never away: other processes hold its lock, and SQLite does not queue those that wait."""
SYSTEM_METRICS_S = 5.0


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run is."""

    name: str
    """What people read."""
    kind: Kind
    """Its place in the tree."""
    key: str
    """Finds it again: a later attempt with the same key continues it."""
    parent: str | None = None
    """Key of the run above."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Handed down to children."""
    params: Mapping[str, str] = field(default_factory=dict)
    """Flat."""
    owned: bool = True
    """Whether this tracker ends the run."""


class MlflowTracker:
    """One run, made when something is logged to it or a stage begins: a pipeline that skips everything leaves none."""

    def __init__(self, store: Store, spec: RunSpec, spool_dir: Path) -> None:
        self._store, self._spec, self._spool_dir = store, spec, spool_dir
        self._delivery: Delivery | None = None
        self._children: list[MlflowTracker] = []
        self._params: dict[str, str] | None = None
        self._system: SystemMetrics | None = None
        self._lock = threading.RLock()

    @property
    def handle(self) -> RunHandle:
        """What `attach` needs; makes the run."""
        self._begun()
        return RunHandle(
            key=self._spec.key,
            name=self._spec.name,
            uri=self._store.uri,
            experiment=self._store.experiment,
            spool_dir=self._spool_dir,
            tags=dict(self._spec.tags),
        )

    @property
    def run_id(self) -> str | None:
        """MLflow's id, once the store knows the run."""
        return self._delivery.writer.run_id if self._delivery else None

    def child(
        self,
        name: str,
        kind: Kind,
        params: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> MlflowTracker:
        """A run below this one, made when it is entered."""
        self._begun()
        child = MlflowTracker(
            self._store,
            RunSpec(
                name=name,
                kind=kind,
                key=f"{self._spec.key}/{key or secrets.token_hex(8)}",
                parent=self._spec.key,
                tags={**self._spec.tags, **{name: redact(text) for name, text in (tags or {}).items()}},
                params=flatten(params or {}),
            ),
            self._spool_dir,
        )
        self._children.append(child)
        return child

    def stage(self, name: str, params: Mapping[str, object] | None = None, *, key: str | None = None) -> MlflowTracker:
        """A child of kind `stage`."""
        return self.child(name, "stage", params, key=key)

    def log_params(self, values: Mapping[str, object]) -> None:
        """Each name once; MLflow's params cannot be changed."""
        delivery, flat = self._begun(), flatten(values)
        with self._lock:
            if self._params is None:
                self._params = dict(self._spec.params)
                if not self._spec.owned:
                    # A store that is away is asked nothing; what contradicts is then refused on delivery.
                    with suppress(*store_errors()):
                        self._params = delivery.writer.params()
            for name, value in flat.items():
                if self._params.get(name, value) != value:
                    raise ValueError(
                        f"param {name!r} of run {self._spec.name!r} is already {self._params[name]!r} and cannot "
                        f"become {value!r}; log it under another name, or as a metric"
                    )
            new = {name: value for name, value in flat.items() if name not in self._params}
            self._params |= new
        delivery.add({"kind": "params", "values": new})

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Microseconds: the points go to a file."""
        # As few objects as can be: behind a training step they are all written to cold memory.
        numbers = {name: float(value) for name, value in values.items()}
        self._begun().add({"kind": "metrics", "step": int(step), "ms": _now_ms(), "values": numbers})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copied in the background, and before the run ends; a folder keeps its name."""
        if not path.exists():
            raise FileNotFoundError(f"artifact {path} does not exist")
        self._begun().add({"kind": "artifact", "path": str(path.resolve()), "folder": folder})

    def log_table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Stored as `<name>.json`, which MLflow shows as a table."""
        lengths = {column: len(values) for column, values in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"table {name!r} needs columns of one length, got {lengths}")
        data = {column: list(values) for column, values in columns.items()}
        self._begun().add({"kind": "table", "file": f"{name.removesuffix('.json')}.json", "columns": data})

    def log_dataset(
        self, name: str, *, digest: str, source: str, context: str, profile: Mapping[str, object] | None = None
    ) -> None:
        """An input of MLflow's; its digest has at most 36 characters."""
        self._begun().add(
            {
                "kind": "dataset",
                "name": name,
                "digest": digest[:36],
                "source": redact(source),
                "context": context,
                "profile": dict(profile or {}),
            }
        )

    def log_model(self, name: str, path: Path, *, kind: str, params: Mapping[str, object] | None = None) -> None:
        """A model of MLflow's, linked to this run; copied in the background."""
        if not path.exists():
            raise FileNotFoundError(f"model {path} does not exist")
        record = {"kind": "model", "name": name, "path": str(path.resolve()), "type": kind}
        self._begun().add({**record, "params": flatten(params or {})})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets or replaces."""
        self._begun().add({"kind": "tags", "values": {name: redact(value) for name, value in tags.items()}})

    def describe(self, markdown: str) -> None:
        """The text on the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def log_view(self, name: str, kind: Kind, *, params: Sequence[str], metrics: Sequence[str]) -> str:
        """A saved view of the experiment's page; the link opens it from any page of MLflow's."""
        key = view_key(self._spec.key)
        what = {"name": name, "children": kind, "params": list(params), "metrics": list(metrics)}
        self._begun().add({"kind": "view", "key": key, "ms": _now_ms(), **what})
        return view_page(self._store.experiment_id, key)

    def flush(self) -> None:
        """Deliver what waits now, if the store takes it."""
        if self._delivery is not None:
            self._delivery.flush()

    def __enter__(self) -> Self:
        if self._spec.parent is not None:
            self._begun()
            return self
        if self._spec.owned:
            self._store.check_server()
        if self._spec.owned and any_waiting(self._spool_dir):
            with suppress(ValueError, *store_errors()):  # a store that is away is said when something is to be logged
                deliver_abandoned(self._spool_dir, self._store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._delivery is None:
            return
        if self._system is not None:
            self._system.finish()
        if self._spec.owned and isinstance(error, Exception):
            self.set_tags({"error": f"{type(error).__name__}: {error}"[:500]})
        self._delivery.finish(
            {"kind": "end", "status": final_status(error), "ms": _now_ms()} if self._spec.owned else None
        )
        if self._spec.parent is None:
            self._wait()

    def _wait(self) -> None:
        """At the end of a job, for its whole tree: while the store takes anything, however slowly."""
        everything = [(run._spec.name, run._delivery) for run in self._tree() if run._delivery is not None]
        waiting, patience_s = everything, PATIENCE_S * (BUSY_FACTOR if self._store.uri.startswith("sqlite:") else 1)
        while waiting:
            waiting = [(name, delivery) for name, delivery in waiting if not delivery.wait(0.05)]
            moved_s = max(delivery.progress_s for _, delivery in everything)
            if waiting and time.monotonic() - moved_s > patience_s:
                _log.error(
                    "the tracking store did not take everything of %s; it waits in %s and is delivered by the next job",
                    ", ".join(name for name, _ in waiting),
                    self._spool_dir,
                )
                return

    def _tree(self) -> list[MlflowTracker]:
        return [self, *(run for child in self._children for run in child._tree())]

    def _begun(self) -> Delivery:
        with self._lock:
            if self._delivery is None:
                # May raise: a store that was never there is a user's error, and the time to say so is now.
                self._delivery = self._begin()
                if self._spec.kind == "stage" and self._spec.owned:
                    self._system = SystemMetrics(self.log_metrics, interval_s=SYSTEM_METRICS_S, uri=self._store.uri)
            return self._delivery

    def _begin(self) -> Delivery:
        quiet_mlflow()  # here: it takes seconds, and its import is not made for several threads at once
        spec, is_root = self._spec, self._spec.parent is None and self._spec.owned
        if is_root:
            self._refuse_if_alive()
            deliver_abandoned(self._spool_dir, self._store, spec.key)
        header = {
            "format": 1,
            "store": self._store.identity,
            "name": spec.name,
            "kind": spec.kind,
            "key": spec.key,
            "parent": spec.parent,
            "owned": spec.owned,
            "tags": {**spec.tags, **process_tag(), KEY_TAG: spec.key, "kind": spec.kind},
            "params": dict(spec.params),
            "ms": _now_ms(),
        }
        delivery = Delivery(Spool.create(self._spool_dir, header), self._store)
        if is_root:
            delivery.begin()
        delivery.start()
        return delivery

    def _refuse_if_alive(self) -> None:
        query = f"tags.`{KEY_TAG}` = '{self._spec.key}' AND attributes.status = 'RUNNING'"
        for run in self._store.client.search_runs([self._store.experiment_id], filter_string=query):
            if is_alive_elsewhere(run.data.tags.get(PROCESS_TAG, "")):
                raise ValueError(
                    f"run {self._spec.name!r} is being written by another process: wait for its end, or choose another "
                    f"--name"
                )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

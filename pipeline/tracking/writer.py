"""One run as the store sees it: found or made by its key, and written to so that repeating does no harm.

In: a spool's header and records.  Out: calls of `MlflowClient`.

A metric's point keeps the time at which it was logged, so sending it again changes nothing; params, tags, tables and
artifacts replace themselves.  A run that is continued keeps the points it has: a step of a curve is written once.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.tracking.spool import Record
from pipeline.tracking.store import KEY_TAG, PROCESS_TAG, Store
from pipeline.tracking.views import children_view

_log = logging.getLogger(__name__)
_TABLES_TAG = "mlflow.loggedArtifacts"
SYSTEM = "system/"
"""Prefix of what the machine did: MLflow shows it on a page of its own."""


class RunWriter:
    """Delivers the records of one run; used by one thread at a time."""

    def __init__(
        self, store: Store, header: Record, folder: Path, *, run_id: str | None = None, late: bool = False
    ) -> None:
        self.store, self._header, self._folder = store, header, folder
        self.run_id, self.owned = run_id, bool(header["owned"])
        # `late`: the records of a process that is gone; a newer attempt may have taken the run over since.
        self._late = late
        self._continued: dict[str, dict[int, float]] | None = {} if late else None

    def begin(self) -> str:
        """The run's id: that of an earlier attempt with the same key, or of a new run."""
        if self.run_id is None:
            found = self._find()
            if not self.owned:
                if found is None:
                    raise ConnectionError(f"run {self._header['name']!r} is not in the store yet")
                self.run_id = found.info.run_id
            elif found is not None and (self._late or self._may_continue(found)):
                self.run_id = found.info.run_id
                if not self._late:
                    self._reopen(found)
            else:
                if found is not None:
                    self.store.client.set_tag(found.info.run_id, KEY_TAG, f"{self._header['key']}@{found.info.run_id}")
                self.run_id = self._create()
        return str(self.run_id)

    def write(self, records: Sequence[Record]) -> None:
        """Deliver in order; neighbouring metrics, params and tags go in one request."""
        metrics: list[list[Any]] = []
        texts: dict[str, dict[str, str]] = {"params": {}, "tags": {}}
        for record in records:
            kind = record["kind"]
            if kind == "metrics":
                metrics += _points(record)
            elif kind in texts:
                texts[kind] |= record["values"]
            else:
                self._send_batch(metrics, texts)
                metrics, texts = [], {"params": {}, "tags": {}}
                _ACTIONS[kind](self, record)
        self._send_batch(metrics, texts)

    def params(self) -> dict[str, str]:
        """Those in the store."""
        return dict(self.store.client.get_run(self.begin()).data.params)

    def _find(self, key: str | None = None) -> Any:
        runs = self._find_all(key or self._header["key"])
        return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _find_all(self, key: str) -> list[Any]:
        query = f"tags.`{KEY_TAG}` = '{key}'"
        return list(self.store.client.search_runs([self.store.experiment_id], filter_string=query))

    def _may_continue(self, found: Any) -> bool:
        if self._header["parent"] is None:
            return True  # with other params it is an error, see `_reopen`
        params = self._header["params"]
        if any(found.data.params.get(name, value) != value for name, value in params.items()):
            return False
        return bool(self._header["kind"] != "stage" or found.info.status != "FINISHED")

    def _create(self) -> str:
        tags = dict(self._header["tags"])
        if parent_key := self._header["parent"]:
            parent = self._find(parent_key)
            if parent is None:
                raise ConnectionError(f"the parent of run {self._header['name']!r} is not in the store yet")
            tags["mlflow.parentRunId"] = parent.info.run_id
        client = self.store.client
        client.create_run(
            self.store.experiment_id, start_time=self._header["ms"], run_name=self._header["name"], tags=tags
        )
        # A server that was stopped may have made the run of a request that was given up: one of them goes.
        # Twins began at the same millisecond; a run of the same key that did not is another attempt, delivered late.
        twins = [
            run
            for run in self._find_all(self._header["key"])
            if (run.info.start_time, run.info.run_name) == (self._header["ms"], self._header["name"])
        ]
        kept, *others = sorted(twins, key=lambda run: str(run.info.run_id))
        for twin in others:
            client.delete_run(twin.info.run_id)
        self._send_batch([], {"params": self._header["params"], "tags": {}}, run_id=kept.info.run_id)
        return str(kept.info.run_id)

    def _reopen(self, found: Any) -> None:
        client, run_id, wanted = self.store.client, found.info.run_id, self._header["params"]
        for name, value in wanted.items():
            if found.data.params.get(name, value) != value:
                self.run_id = None
                raise ValueError(
                    f"run {self._header['name']!r} began with {name}={found.data.params[name]} and cannot continue "
                    f"with {value}: MLflow's params never change; give it another name, or the value it began with"
                )
        self._continued = {}
        attempts = int(found.data.tags.get("attempts", "1")) + 1
        tags = self._header["tags"] | {"attempts": str(attempts)}
        tags.pop("mlflow.parentRunId", None)
        client.update_run(run_id, status="RUNNING")
        self._send_batch([], {"params": wanted, "tags": tags}, run_id=run_id)
        if "error" in found.data.tags:
            client.delete_tag(run_id, "error")

    def _send_batch(
        self, points: list[list[Any]], texts: dict[str, dict[str, str]], *, run_id: str | None = None
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        run_id = run_id or self.begin()
        if self._continued is not None:
            points = [point for point in points if not self._is_known(run_id, *point[:3])]
        params = [Param(name, value) for name, value in texts["params"].items()]
        tags = [RunTag(name, value) for name, value in texts["tags"].items()]
        if points or params or tags:  # cut into requests of a legal size by the client
            metrics = [Metric(name, value, ms, step) for name, value, step, ms in points]
            self.store.client.log_batch(run_id, metrics=metrics, params=params, tags=tags)

    def _is_known(self, run_id: str, name: str, value: float, step: int) -> bool:
        """Whether an earlier attempt wrote this step of a curve; a single value may be replaced."""
        assert self._continued is not None
        if name.startswith(SYSTEM):
            return False
        if name not in self._continued:
            history = self.store.client.get_metric_history(run_id, name)
            self._continued[name] = {point.step: point.value for point in history}
        steps = self._continued[name]
        known = step in steps and (len(steps) > 1 or steps[step] == value)
        steps.setdefault(step, value)
        return known

    def _artifact(self, record: Record) -> None:
        path, folder, run_id = Path(record["path"]), record["folder"], self.begin()
        if not path.exists():
            _log.error("tracking: %s is gone before it could be stored", path)
        elif path.is_dir():
            self.store.client.log_artifacts(run_id, str(path), f"{folder}/{path.name}" if folder else path.name)
        else:
            self.store.client.log_artifact(run_id, str(path), folder)

    def _table(self, record: Record) -> None:
        # Not the client's `log_table`, which appends to the table that an earlier attempt wrote.
        columns, file, client, run_id = record["columns"], record["file"], self.store.client, self.begin()
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        with tempfile.TemporaryDirectory(prefix=".table-", dir=self._folder) as folder:
            local = Path(folder) / Path(file).name
            local.write_text(json.dumps({"columns": list(columns), "data": rows}), encoding="utf-8")
            client.log_artifact(run_id, str(local), str(Path(file).parent) if "/" in file else None)
        entry = {"path": file, "type": "table"}
        known = json.loads(client.get_run(run_id).data.tags.get(_TABLES_TAG, "[]"))
        if entry not in known:
            client.set_tag(run_id, _TABLES_TAG, json.dumps([*known, entry]))

    def _dataset(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=record["name"],
            digest=record["digest"],
            source_type="local",
            source=json.dumps({"uri": record["source"]}),
            profile=json.dumps(record["profile"]),
        )
        context = InputTag("mlflow.data.context", record["context"])
        self.store.client.log_inputs(self.begin(), datasets=[DatasetInput(dataset, [context])])

    def _model(self, record: Record) -> None:
        from mlflow.entities import LoggedModelOutput

        client, run_id, name, path = self.store.client, self.begin(), record["name"], Path(record["path"])
        experiment = self.store.experiment_id
        query = f"source_run_id = '{run_id}' AND name = '{name}'"
        found = client.search_logged_models([experiment], filter_string=query)
        if any(str(model.status) == "READY" for model in found):
            return
        model = client.create_logged_model(
            experiment, name=name, source_run_id=run_id, params=record["params"], model_type=record["type"]
        )
        if path.is_dir():
            client.log_model_artifacts(model.model_id, str(path))
        else:
            client.log_model_artifact(model.model_id, str(path))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])

    def _view(self, record: Record) -> None:
        tag, value = children_view(
            record["key"], record["name"], record["ms"], run_id=self.begin(), kind=record["children"],
            params=record["params"], metrics=record["metrics"],
        )  # fmt: skip
        self.store.client.set_experiment_tag(self.store.experiment_id, tag, value)

    def _end(self, record: Record) -> None:
        self.store.client.set_terminated(self.begin(), status=record["status"], end_time=record["ms"])

    def end_late(self) -> None:
        """The process was killed: so was its run, unless it ended before, or a newer attempt goes on with it."""
        run = self.store.client.get_run(self.begin())
        ours = run.data.tags.get(PROCESS_TAG) == self._header["tags"].get(PROCESS_TAG)
        if self.owned and ours and run.info.status == "RUNNING":
            self.store.client.set_terminated(run.info.run_id, status="KILLED")


def _points(record: Record) -> list[list[Any]]:
    """Name, value, step and time of each."""
    if "points" in record:  # a spool that commits before 2026-11-26 have left
        return list(record["points"])
    return [[name, value, record["step"], record["ms"]] for name, value in record["values"].items()]


_ACTIONS = {
    "artifact": RunWriter._artifact,
    "table": RunWriter._table,
    "dataset": RunWriter._dataset,
    "model": RunWriter._model,
    "view": RunWriter._view,
    "end": RunWriter._end,
}

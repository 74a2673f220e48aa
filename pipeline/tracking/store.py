"""Where runs are kept: an MLflow store, opened late and quietly.

In: the tracking configuration and the runs' folder.  Out: an `MlflowClient` and the experiment in it.

`import mlflow` takes 2 s and a first SQLite store 2 s more, so both wait until something is logged.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import time
from contextlib import closing
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import psutil

from pipeline.config.fingerprint import fingerprint
from pipeline.tracking.params import redact
from pipeline.tracking.views import results_view

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
PROCESS_TAG = "mlflow.semi.process"
"""MLflow's prefix keeps it out of the pages, where it would say nothing to a reader."""
KEY_TAG = "mlflow.semi.key"
"""What a continued run is found by."""
_SQLITE = "sqlite:///"
_TRY_AGAIN = (401, 403, 408, 425, 429)
_QUIET_LOGGERS = ("mlflow", "alembic", "sqlalchemy", "git")
# A server that is away must cost seconds, not the minutes of the client's own retries; nothing is sent home.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def local_uri(runs_dir: Path) -> str:
    """Address of the SQLite store of `runs_dir`."""
    return _SQLITE + str(runs_dir.resolve() / DATABASE)


@cache
def quiet_mlflow() -> Any:
    """The `mlflow` module, with its own messages at warnings and above."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    for logger in _QUIET_LOGGERS:  # after the import, which sets its own to INFO
        logging.getLogger(logger).setLevel(logging.WARNING)
    return mlflow


@cache
def store_errors() -> tuple[type[Exception], ...]:
    """What a store that is away, locked or damaged raises (errors of `requests` are `OSError`s)."""
    quiet_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError)


def is_temporary(error: Exception) -> bool:
    """Whether to send again later; False where the store has understood and refuses."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return True
    code = int(error.get_http_status_code())
    # A token that has run out is mended while the run goes on; waiting costs nothing.
    return not 400 <= code < 500 or code in _TRY_AGAIN


class Store:
    """A store and one experiment in it; opened at the first use of `client` or `experiment_id`."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.experiment = experiment

    @property
    def identity(self) -> str:
        """Names the store in files; the address itself may hold a password."""
        return fingerprint((self.uri, self.experiment))

    @cached_property
    def client(self) -> Any:
        """The `MlflowClient`."""
        database = _database_of(self.uri)
        refused: tuple[type[Exception], ...] = (ImportError, *store_errors())  # ImportError: no driver for the database
        try:
            if database:
                database.parent.mkdir(parents=True, exist_ok=True)
            return quiet_mlflow().MlflowClient(tracking_uri=self.uri)
        except refused as error:
            raise ValueError(
                f"tracking.uri: {redact(self.uri)!r} cannot be opened ({redact(str(error))}); give a database or "
                f"server that is there, or switch tracking off with --set tracking.enabled=false"
            ) from error

    @cached_property
    def experiment_id(self) -> str:
        """The experiment, made where it is missing; runs that a crash left open in it are closed."""
        database = _database_of(self.uri)
        # Absolute: workers of Ray have other current directories.
        location = str(database.parent / ARTIFACTS) if database else None
        experiment = self._get_experiment()
        if experiment is None:
            experiment = self._create_experiment(location)
        elif database and location and _is_ours_elsewhere(experiment.artifact_location, location):
            _relocate(database, experiment.artifact_location, location)
        _save_results_view(self.client, experiment)
        _close_orphans(self.client, experiment.experiment_id)
        return str(experiment.experiment_id)

    def check_server(self) -> None:
        """A server that does not answer is said before any work; a database is opened when it is needed."""
        if self.uri.startswith(("http://", "https://")):
            self._get_experiment()

    def _get_experiment(self) -> Any:
        try:
            return self.client.get_experiment_by_name(self.experiment)
        except store_errors() as error:
            raise ValueError(
                f"tracking.uri: {redact(self.uri)!r} does not answer ({redact(str(error))}); start it, "
                f"or switch tracking off with --set tracking.enabled=false"
            ) from error

    def _create_experiment(self, location: str | None) -> Any:
        try:
            self.client.create_experiment(
                self.experiment,
                artifact_location=location,
                # Without it the page opens on traces of language model calls, of which there are none here.
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        except store_errors():
            # Another process may have been first; anything else fails again below.
            if self.client.get_experiment_by_name(self.experiment) is None:
                raise
        return self.client.get_experiment_by_name(self.experiment)


def process_tag() -> dict[str, str]:
    """Who writes a run: enough to tell later whether that process is still alive."""
    return {PROCESS_TAG: f"{_host()} {os.getpid()} {psutil.Process().create_time():.2f}"}


def _host() -> str:
    """Host and PID namespace: containers may share one name and the store, but not their process numbers."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - not a path
    except OSError:
        namespace = "pid"
    return f"{socket.gethostname()} {namespace}"


def _save_results_view(client: Any, experiment: Any) -> None:
    """Also for experiments that somebody else made, unless they have one: theirs may be another."""
    name, value = results_view(time.time_ns() // 1_000_000)
    if name not in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, name, value)


def _close_orphans(client: Any, experiment_id: str) -> None:
    """Mark runs whose process was killed: nothing else would ever end them."""
    for run in client.search_runs([experiment_id], filter_string="attributes.status = 'RUNNING'", max_results=1000):
        host, _, process = run.data.tags.get(PROCESS_TAG, "").partition(f"{_host()} ")
        if process and not host and not _is_alive(process):
            client.set_terminated(run.info.run_id, status="KILLED")


def is_alive_elsewhere(tag: str) -> bool:
    """Whether the process of a `process_tag` is another one, of this machine, and runs."""
    host, _, process = tag.partition(f"{_host()} ")
    return bool(process) and not host and _is_alive(process) and int(process.split()[0]) != os.getpid()


def _is_alive(process: str) -> bool:
    pid, started = process.split()
    try:
        return abs(float(psutil.Process(int(pid)).create_time()) - float(started)) < 1.0
    except psutil.NoSuchProcess:
        return False


def _database_of(uri: str) -> Path | None:
    """File of a SQLite store; None for servers and other databases."""
    return Path(uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


def _is_ours_elsewhere(stored: str, location: str) -> bool:
    """Whether `stored` is the place that this class chose before the runs' folder was moved or copied."""
    return stored != location and Path(stored).is_absolute() and Path(stored).name == ARTIFACTS


def _relocate(database: Path, old: str, new: str) -> None:
    """Follow the folder: MLflow stores absolute places, and would go on writing to the old one."""
    with closing(sqlite3.connect(database, timeout=20.0)) as connection, connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                f"WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                {"old": old, "new": new},
            )

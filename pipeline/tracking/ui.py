"""The user interface of a local store.

In: the runs' folder and a port.  Out: the command, environment and address of a server on this machine only.
"""

from __future__ import annotations

import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from pipeline.tracking.store import ARTIFACTS, DATABASE, local_uri
from pipeline.tracking.views import RESULTS, VIEW_TAG, view_page

HOST = "127.0.0.1"
UI_ENVIRONMENT = {
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a process of 240 MB for language model evaluations
}


def ui_address(runs_dir: Path, experiment: str, port: int) -> str:
    """Page to open: the experiment's runs with their scores, in the part for training rather than for chat traces."""
    query = (
        "SELECT experiment_id, EXISTS (SELECT 1 FROM experiment_tags AS t WHERE t.experiment_id = e.experiment_id AND "
        "t.key = ?) FROM experiments AS e WHERE name = ?"
    )
    with closing(sqlite3.connect(f"file:{runs_dir.resolve() / DATABASE}?mode=ro", uri=True)) as connection:
        row = connection.execute(query, (VIEW_TAG + RESULTS, experiment)).fetchone()
    server = f"http://{HOST}:{port}/"
    if row and row[1]:
        return server + view_page(row[0], RESULTS)
    return f"{server}#/{f'experiments/{row[0]}/runs' if row else 'experiments'}?workflowType=machine_learning"


def ui_command(runs_dir: Path, port: int) -> list[str]:
    """Command that serves the store of `runs_dir`; a `ValueError` where there is none, or the port is taken."""
    database = runs_dir.resolve() / DATABASE
    if not database.is_file():
        raise ValueError(f"{database} does not exist: nothing was tracked yet; run `make demo` first")
    if not 1 <= port <= 65535:
        raise ValueError(f"port must be between 1 and 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ValueError(
                f"port {port} of {HOST} cannot be used ({error.strerror}); choose another: --port {port + 1}"
            ) from error
    return [
        sys.executable, "-m", "mlflow", "server",
        "--backend-store-uri", local_uri(runs_dir),
        "--artifacts-destination", str(runs_dir.resolve() / ARTIFACTS),
        "--host", HOST,
        "--port", str(port),
        "--workers", "1",
        "--uvicorn-opts", "--log-level warning",
    ]  # fmt: skip

"""`python -m jobs.ui`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.config.schema import TrackingConfig
from pipeline.tracking import open_tracker
from pipeline.tracking.store import Store, local_uri
from pipeline.tracking.ui import HOST, UI_ENVIRONMENT, ui_address, ui_command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def job(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.ui", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_without_a_store_the_job_says_what_to_do(tmp_path: Path) -> None:
    done = job("--set", f"runs_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path}/mlflow.db does not exist: nothing was tracked yet; run `make demo` first\n"
    )


def test_runs_tracked_elsewhere_are_not_served(tmp_path: Path) -> None:
    done = job("--set", "tracking.uri=http://server:5000", "--set", f"runs_dir={tmp_path}")
    assert done.returncode == 2
    assert "tracking.uri is set: this run is tracked elsewhere" in done.stderr


def test_a_taken_port_is_refused(runs_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 cannot be used .* --port {port + 1}"):
            ui_command(runs_dir, port)


def test_an_impossible_port_is_refused(runs_dir: Path) -> None:
    with pytest.raises(ValueError, match="between 1 and 65535, got 70000"):
        ui_command(runs_dir, 70000)


def test_it_listens_on_this_machine_only(runs_dir: Path) -> None:
    command = ui_command(runs_dir, free_port())
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--allowed-hosts" not in command


def test_the_address_is_the_experiments_page(runs_dir: Path) -> None:
    assert ui_address(runs_dir, "semi", 5000).startswith("http://127.0.0.1:5000/#/experiments?")
    with open_tracker(
        TrackingConfig(), runs_dir, name="n", params={}, commit="c", config_fingerprint="f", source="s"
    ) as run:
        run.log_metrics({"x": 0.0})
    assert ui_address(runs_dir, "semi", 5000) == (
        "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=results&workflowType=machine_learning"
    )


def test_a_store_without_the_view_opens_at_its_runs(runs_dir: Path) -> None:
    Store(local_uri(runs_dir), "older").client.create_experiment("older")
    assert ui_address(runs_dir, "older", 5000) == (
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
    )


@pytest.mark.slow
def test_the_server_answers_with_the_runs(runs_dir: Path) -> None:
    with open_tracker(
        TrackingConfig(), runs_dir, name="shown", params={}, commit="c", config_fingerprint="f", source="s"
    ) as run:
        run.log_metrics({"x": 0.0})
    port = free_port()
    server = subprocess.Popen(
        ui_command(runs_dir, port),
        env=os.environ | UI_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        body = json.dumps({"experiment_ids": ["1"]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + 240  # 15 s on an idle machine
        names: list[str] = []
        while not names:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.5)
            with suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
                names = [run["info"]["run_name"] for run in json.load(answer)["runs"]]
        assert names == ["shown"]
    finally:
        server.terminate()
        server.wait(20)

"""A real MLflow server is killed, frozen or never there; nothing that was logged is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.schema import TrackingConfig
from pipeline.tracking import Tracker, open_tracker
from pipeline.tracking.spool import any_waiting
from tests.mlflow_server import MlflowServer

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def open_run(server: MlflowServer, runs_dir: Path, key: str = "k") -> Tracker:
    return open_tracker(
        TrackingConfig(uri=server.uri), runs_dir, name="demo", params={"seed": 0}, commit="c",
        config_fingerprint="f", source="jobs.demo", key=key,
    )  # fmt: skip


def states(server: MlflowServer) -> dict[str, str]:
    client = server.client()
    experiment = client.get_experiment_by_name("semi")
    runs = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs), "no run is there twice"
    return {run.info.run_name: run.info.status for run in runs}


def history(server: MlflowServer, name: str) -> list[tuple[int, float]]:
    client = server.client()
    (run,) = client.search_runs(
        [client.get_experiment_by_name("semi").experiment_id], filter_string=f"attributes.run_name = '{name}'"
    )
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss"))


def log_through_outage(server: MlflowServer, runs_dir: Path, how: str, away_s: float) -> int:
    """Log steadily before, during and after; the number of steps.  A stage begins and one ends in the outage."""
    step = 0

    def log_for(stage: Tracker, seconds: float) -> None:
        nonlocal step
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stage.log_metrics({"loss": step / 8}, step)
            step += 1
            time.sleep(0.005)

    with open_run(server, runs_dir) as run:
        with run.stage("pretrain_projector") as stage:
            log_for(stage, 2.0)
            server.freeze() if how == "frozen" else server.kill()
            log_for(stage, away_s / 2)
        first, step = step, 0
        with run.stage("meta_train") as stage:
            log_for(stage, away_s / 2)
            server.thaw() if how == "frozen" else server.start()
            log_for(stage, 2.0)
    assert history(server, "pretrain_projector") == [(step, step / 8) for step in range(first)]
    return step


@pytest.mark.parametrize(
    ("how", "away_s"),
    [
        ("killed", 5.0),
        ("frozen", 5.0),
        pytest.param("killed", 60.0, marks=pytest.mark.chaos),
        pytest.param("frozen", 60.0, marks=pytest.mark.chaos),
    ],
)
def test_a_server_that_is_away_in_mid_training_gets_every_point_in_the_end(
    server: MlflowServer, tmp_path: Path, how: str, away_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = log_through_outage(server, tmp_path / "runs", how, away_s)
    if any_waiting(tmp_path / "runs" / "mlflow_spool"):  # the end of the job came before the server was back
        with open_run(server, tmp_path / "runs", key="another"):
            pass
    assert history(server, "meta_train") == [(step, step / 8) for step in range(steps)]
    assert states(server) == {"demo": "FINISHED", "pretrain_projector": "FINISHED", "meta_train": "FINISHED"}
    assert not any_waiting(tmp_path / "runs" / "mlflow_spool")
    assert capsys.readouterr().out == "", "the client must not print the server's address"


def test_a_job_that_is_killed_while_the_server_is_away_is_delivered_by_the_next(
    server: MlflowServer, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    code = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from pipeline.config.schema import TrackingConfig\n"
        "from pipeline.tracking import open_tracker\n"
        f"config, runs = TrackingConfig(uri={server.uri!r}), Path({str(tmp_path / 'runs')!r})\n"
        "with open_tracker(config, runs, name='demo', params={}, commit='c', config_fingerprint='f',\n"
        "                  source='jobs.demo', key='k') as run, run.stage('one', key='one') as stage:\n"
        "    stage.log_metrics({'loss': 0.0}, 0)\n"
        f"    Path({str(ready)!r}).touch()\n"
        "    sys.stdin.readline()\n"
        "    for step in range(1, 300): stage.log_metrics({'loss': step / 8}, step)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    job = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not ready.exists():
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    server.kill()
    job.communicate("\n")
    assert job.returncode == -signal.SIGKILL
    server.start()
    with open_run(server, tmp_path / "runs") as run:
        assert history(server, "one") == [(step, step / 8) for step in range(300)], "before anything else is logged"
        assert states(server) == {"demo": "KILLED", "one": "KILLED"}
        with run.stage("one", key="one") as stage:  # trained again from a checkpoint: the same steps, and more
            for step in range(250, 320):
                stage.log_metrics({"loss": step / 8}, step)
    assert history(server, "one") == [(step, step / 8) for step in range(320)]
    assert states(server) == {"demo": "FINISHED", "one": "FINISHED"}


def test_an_unreachable_server_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.demo", "--preset", "smoke", "--set", f"runs_dir={tmp_path}"]
    command += ["--set", "tracking.enabled=true", "--set", "tracking.uri=http://127.0.0.1:9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: tracking.uri: 'http://127.0.0.1:9' does not answer")
    assert done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"config.yaml", "tracking_id"}

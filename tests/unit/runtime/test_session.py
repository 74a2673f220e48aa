"""What a session gives to Ray, and what it leaves behind: nothing. Ray itself is replaced by a recorder."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.schema import RuntimeConfig
from pipeline.runtime.environment import worker_environment
from pipeline.runtime.session import Session, cluster_tags, ray_session


class FakeRay:
    """Records how it was started."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.running = False
        self.child: subprocess.Popen[bytes]
        self.errors: list[Exception] = []

    def is_initialized(self) -> bool:
        return self.running

    def init(self, **options: Any) -> None:
        if self.errors:
            self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            raise self.errors.pop(0)
        self.options, self.environment, self.running = options, dict(os.environ), True
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray does

    def shutdown(self) -> None:
        self.running = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 6.0, "GPU": 1.0}

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}, {"Alive": False}, {"Alive": True}]

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address="10.0.0.1:6379")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeRay]:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGTERM)
    yield fake
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def head() -> Iterator[str]:
    """Where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_job_keeps_its_own_handler_of_sigterm(ray: FakeRay, tmp_path: Path) -> None:
    def own(number: int, frame: object) -> None:
        sys.exit(143)

    before = signal.signal(signal.SIGTERM, own)
    try:
        with ray_session(RuntimeConfig(), root=tmp_path):
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_private_cluster_is_closed_quiet_and_leaves_nothing(ray: FakeRay, tmp_path: Path) -> None:
    before = dict(os.environ)
    with ray_session(RuntimeConfig(threads_per_worker=3), root=tmp_path, num_cpus=2) as session:
        assert session == Session(address="10.0.0.1:6379", cpus=6.0, gpus=1.0, nodes=2)
        assert ray.running
        folder = Path(ray.options["_temp_dir"]).parent
        assert folder.stat().st_mode & 0o077 == 0
    assert not ray.running
    assert not folder.exists()
    assert dict(os.environ) == before
    assert (ray.options["address"], ray.options["num_cpus"]) == ("local", 2)
    assert ray.options["dashboard_host"] == "127.0.0.1"
    assert not 10002 <= ray.options["dashboard_port"] <= 19999
    assert not ray.options["log_to_driver"]
    assert ray.options["runtime_env"] == {"env_vars": worker_environment(3, tmp_path)}
    environment = ray.environment
    assert environment["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{ray.options['dashboard_port']}"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert re.fullmatch("[0-9a-f]{64}", environment["RAY_AUTH_TOKEN"])
    assert float(environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"]) < 2


def test_the_socket_paths_are_short_enough(ray: FakeRay, tmp_path: Path) -> None:
    with ray_session(RuntimeConfig(), root=tmp_path):
        socket = f"{ray.options['_temp_dir']}/session_2026-11-22_05-34-48_813405_4194304/sockets/plasma_store"
        assert len(socket) <= 107


def test_folders_of_killed_processes_are_removed_and_others_are_not(ray: FakeRay, tmp_path: Path) -> None:
    dead, alive = Path("/tmp/semi-ray-4194999-dead"), Path(f"/tmp/semi-ray-{os.getppid()}-alive")
    try:
        for folder in (dead, alive):
            folder.mkdir()
        with ray_session(RuntimeConfig(), root=tmp_path):
            assert not dead.exists()
            assert alive.exists()
    finally:
        for folder in (dead, alive):
            if folder.exists():
                folder.rmdir()


def test_what_the_user_has_set_stays(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    with ray_session(RuntimeConfig(), root=tmp_path):
        pass
    assert ray.environment["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in ray.environment
    assert ray.environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"


def test_a_stray_address_is_not_followed(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somebody-else:6379")
    with ray_session(RuntimeConfig(), root=tmp_path):
        assert ray.options["address"] == "local"


def test_inside_a_job_its_cluster_and_code_are_used(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with ray_session(RuntimeConfig(), root=tmp_path):
        assert ray.options["address"] == "head:6379"
    assert ray.options["runtime_env"] == {"env_vars": worker_environment(1)}


def test_a_cluster_joined_from_outside_gets_this_checkout(ray: FakeRay, head: str, tmp_path: Path) -> None:
    with ray_session(RuntimeConfig(address=head), root=tmp_path):
        assert ray.options["address"] == head
    assert ray.options["runtime_env"]["working_dir"] == str(tmp_path)
    assert {".git", ".venv", "runs"} <= set(ray.options["runtime_env"]["excludes"])
    assert "RAY_AUTH_MODE" not in ray.environment  # no token is known
    assert "RAY_API_SERVER_ADDRESS" not in ray.environment


def test_a_token_at_hand_is_sent_to_a_joined_cluster(ray: FakeRay, head: str, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    with ray_session(RuntimeConfig(address=head), root=tmp_path):
        assert ray.environment["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_TOKEN" not in ray.environment


def test_an_address_without_a_cluster_is_one_clear_error(ray: FakeRay, head: str, tmp_path: Path) -> None:
    ray.errors = [ConnectionError("Could not reach it\nmany lines")]
    before = dict(os.environ)
    message = rf"^runtime.address: no Ray cluster answers at '{head}' \(Could not reach it\): start one"
    with pytest.raises(ValueError, match=message), ray_session(RuntimeConfig(address=head), root=tmp_path):
        pass
    assert dict(os.environ) == before


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nothing_listens_ray_is_not_asked(scheme: str, ray: FakeRay, tmp_path: Path) -> None:
    """It would try for more than ten minutes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        message = rf"^runtime.address: no Ray cluster answers at '{address}' \(.*refused\): start one"
        with pytest.raises(ValueError, match=message), ray_session(RuntimeConfig(address=address), root=tmp_path):
            pass
    assert ray.options == {}


def test_an_address_that_ray_looks_up_is_left_to_it(ray: FakeRay, tmp_path: Path) -> None:
    with ray_session(RuntimeConfig(address="auto"), root=tmp_path):
        assert ray.options["address"] == "auto"


def test_a_start_that_a_busy_machine_missed_is_tried_again(ray: FakeRay, tmp_path: Path) -> None:
    late = "The current node timed out during startup. This could happen because some of the raylet failed"
    ray.errors = [Exception(late), Exception(late)]
    with ray_session(RuntimeConfig(), root=tmp_path):
        assert ray.running
    assert ray.child.wait(timeout=20) == -signal.SIGKILL  # what the failed start left would load the machine further

    ray.errors = [Exception(late)] * 3
    with pytest.raises(Exception, match="timed out during startup"), ray_session(RuntimeConfig(), root=tmp_path):
        pass


def test_other_errors_of_a_start_are_raised_at_once(ray: FakeRay, tmp_path: Path) -> None:
    ray.errors = [RuntimeError("no room on device"), RuntimeError("never seen")]
    with pytest.raises(RuntimeError, match="no room on device"), ray_session(RuntimeConfig(), root=tmp_path):
        pass
    ray.child.kill()


def test_an_open_session_is_used_and_left_open(ray: FakeRay, tmp_path: Path) -> None:
    with ray_session(RuntimeConfig(), root=tmp_path):
        options = ray.options
        with ray_session(RuntimeConfig(), root=tmp_path):
            assert ray.options is options
        assert ray.running


def test_workers_keep_a_python_path_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert worker_environment(2, Path("/project"))["PYTHONPATH"] == "/project:/elsewhere"
    assert worker_environment(2)["OMP_NUM_THREADS"] == "2"
    assert "PYTHONPATH" not in worker_environment(2)


def test_a_runs_record_names_the_cluster_and_the_ray_job(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_session(RuntimeConfig(), root=tmp_path):
        pass
    wanted = {"ray.address": "10.0.0.1:6379", "ray.nodes": "2", "ray.cpus": "6", "ray.gpus": "1"}
    assert cluster_tags() == wanted, "also after it was closed: stages of one job open one each"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_7"}}')
    assert cluster_tags() == wanted | {"ray.job_id": "raysubmit_7"}

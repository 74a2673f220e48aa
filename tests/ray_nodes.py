"""A Ray cluster of several nodes on this machine: each a `ray start` of its own, with token authentication on."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.drivers import lives

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT_S = 300.0
_MARKER = "SEMI_RAY_NODES"


@dataclass(kw_only=True)
class RayNodes:
    """Nodes, their token and their ports; `end` leaves nothing behind."""

    folder: Path
    """Short: Ray's sockets lie in it."""
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    nodes: list[psutil.Process] = field(default_factory=list)
    """What keeps each node alive; the head is the first."""

    def __post_init__(self) -> None:
        self.port, self.dashboard = _free_port(), _free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"

    def environment(self, token: str | None = None) -> dict[str, str]:
        """What a client of this cluster sets."""
        path = Path(sys.executable).parent
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return {
            **kept,
            "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token or self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray makes its workers nice, so that whatever else this machine does would starve them.
            "RAY_worker_niceness": "0",
            "OMP_NUM_THREADS": "1",
            # Nodes that come and go are further raylets of this machine.
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            _MARKER: str(self.folder),
        }

    def start_head(self, *, grows_by: int = 0) -> None:
        """The node of the job server; it runs no work. `grows_by`: nodes of 2 CPU that come and go with the work."""
        options = []
        if grows_by:
            config = self.folder / "autoscaling.json"
            config.write_text(json.dumps(_autoscaling(grows_by, f"127.0.0.1:{self.port}")), encoding="utf-8")
            options = [f"--autoscaling-config={config}"]
        self._start(
            "--head",
            *options,
            f"--port={self.port}",
            f"--dashboard-port={self.dashboard}",
            "--dashboard-host=127.0.0.1",
            f"--ray-client-server-port={_free_port()}",
            cpus=0,
        )

    def start_worker(self, cpus: int = 2, *, hidden: Path | None = None) -> None:
        """Another node; a `hidden` folder is another one there (needs root)."""
        self._start(f"--address=127.0.0.1:{self.port}", cpus=cpus, hidden=hidden)

    def workers(self) -> list[int]:
        """Indices of the living nodes that run work."""
        return [index for index in range(1, len(self.nodes)) if lives(self.nodes[index])]

    def kill(self, index: int) -> set[psutil.Process]:
        """SIGKILL a node: its raylet, its agents and all of its workers at once, as when the machine loses power."""
        family = set(self.nodes[index].children(recursive=True)) | {self.nodes[index]}
        for process in family:
            process.send_signal(signal.SIGKILL)
        return family

    def hosts(self, index: int, title: str) -> bool:
        """Whether a node runs a process with this title."""
        return any(title in _title(child) for child in self.nodes[index].children(recursive=True))

    def end(self) -> None:
        """Kill what was started here, and what came from it."""
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARKER) == str(self.folder) and process.pid != os.getpid():
                    process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def _start(self, *options: str, cpus: int, hidden: Path | None = None) -> None:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", *options]
        command += [f"--num-cpus={cpus}", f"--object-store-memory={200 * 2**20}", "--include-log-monitor=false"]
        # A folder of its own: nodes that share one unpack a job's code over each other, under its running driver.
        command += [f"--dashboard-agent-listen-port={_free_port()}", f"--temp-dir={self.folder / str(len(self.nodes))}"]
        if hidden is not None:
            mount = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, str(hidden), *command]
        log = self.folder / f"node-{len(self.nodes)}.log"
        with log.open("wb") as sink:
            started = psutil.Popen(
                command, env=self.environment(), cwd=self.folder, stdout=sink, stderr=subprocess.STDOUT
            )
        self.nodes.append(psutil.Process(started.pid))
        limit = time.monotonic() + START_LIMIT_S
        while b"Ray runtime started" not in log.read_bytes():
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.2)


def _autoscaling(workers: int, address: str) -> dict[str, Any]:
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    node = {"node_config": {}, "min_workers": 0}
    return {
        "cluster_name": "grows",
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,  # all nodes have one
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "max_workers": workers,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.2,
        "available_node_types": {
            "ray.head.default": {**node, "resources": {}, "max_workers": 0},
            "worker": {**node, "resources": {"CPU": 2}, "max_workers": workers},
        },
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in commands},
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""

"""One Ray session: a private cluster on this machine, or a cluster that is already there.

In: `RuntimeConfig` and the checkout to run.  Out: a `Session` that says what the cluster offers, for the length of a
`with` block; everything that was started or set for it (processes, environment, temporary files) goes with it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.config.schema import RuntimeConfig
from pipeline.runtime.address import no_cluster, require_listener
from pipeline.runtime.environment import worker_environment

TEMP_PREFIX = "semi-ray-"
MAX_OBJECT_STORE = 2 * 2**30
START_ATTEMPTS = 3
SHARED_MEMORY = Path("/dev/shm")
CODE_EXCLUDES = (".git", ".venv", "runs", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it in the driver of a submitted job; its submission id is in there."""

LOOPBACK = "127.0.0.1"

# A private cluster's token lives and dies with this process (Ray's own choice would be a file in the home folder).
# It stays the same from session to session because Ray's core reads it once.
_PROCESS_TOKEN = secrets.token_hex(32)
_RAY_DEFAULTS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # report() blocks that long; Ray's default is 2 s
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # prints an error line on clusters without preemption
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning about CUDA_VISIBLE_DEVICES in every process
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A connected Ray cluster."""

    address: str
    """`host:port` of its head."""
    cpus: float
    """CPUs of all its nodes."""
    gpus: float
    """GPUs of all its nodes."""
    nodes: int = 1
    """Machines that are up."""


_opened: list[Session] = []


def cluster_tags() -> dict[str, str]:
    """What a run's record says of the cluster that this process has last worked on, and of the Ray job it is."""
    tags: dict[str, str] = {}
    if _opened:
        last = _opened[-1]
        tags = {
            "ray.address": last.address,
            "ray.nodes": str(last.nodes),
            "ray.cpus": f"{last.cpus:g}",
            "ray.gpus": f"{last.gpus:g}",
        }
    job = os.environ.get(JOB_VARIABLE)
    if job and (name := json.loads(job).get("metadata", {}).get("job_submission_id")):
        tags["ray.job_id"] = str(name)
    return tags


@contextmanager
def ray_session(
    config: RuntimeConfig, *, root: Path, num_cpus: int | None = None, verbose: bool = False
) -> Iterator[Session]:
    """Connect for the length of the block; a session that is already open in this process is used and left open.

    `root` is the checkout that the workers import; `num_cpus` bounds a private cluster (None: this machine's);
    `verbose` shows the workers' output on the terminal.
    """
    with ExitStack() as stack:
        # Ray reads part of its environment when it is imported, hence this order.
        address = config.address or _address_of_job()
        stack.enter_context(_environment(_ray_variables(private=address is None, verbose=verbose)))
        ray = importlib.import_module("ray")
        if not ray.is_initialized():
            if address is None:
                port = _free_port()
                # Without it workers guess the dashboard's address; a stale file makes each of their queries take 40 s.
                stack.enter_context(_environment({"RAY_API_SERVER_ADDRESS": f"http://{LOOPBACK}:{port}"}))
                stack.callback(shutil.rmtree, folder := _temporary_folder(), ignore_errors=True)
                # Ray opens its folder to everybody, hence one inside ours.
                options = _private_options(config, root, num_cpus, port, folder / "r")
            else:
                if config.address is not None:
                    require_listener(address)
                options = _joined_options(config, root, address)
            stack.callback(ray.shutdown)
            _connect(ray, options, verbose)
        yield connected()


def connected() -> Session:
    """The cluster that this process has joined, as it is now."""
    import ray

    resources = ray.cluster_resources()
    session = Session(
        address=ray.get_runtime_context().gcs_address,
        cpus=float(resources.get("CPU", 0.0)),
        gpus=float(resources.get("GPU", 0.0)),
        nodes=sum(node["Alive"] for node in ray.nodes()),
    )
    _opened[:] = [session]
    return session


def _private_options(
    config: RuntimeConfig, root: Path, num_cpus: int | None, port: int, folder: Path
) -> dict[str, Any]:
    return {
        # Never a bare init: it would join whatever cluster a stray file or variable points to.
        "address": "local",
        "num_cpus": num_cpus,
        "include_dashboard": True,  # Ray Train asks it for the state of its actors
        "dashboard_host": LOOPBACK,
        "dashboard_port": port,
        "object_store_memory": _object_store_bytes(),
        "runtime_env": {"env_vars": worker_environment(config.threads_per_worker, root)},
        "_temp_dir": str(folder),
    }


def _joined_options(config: RuntimeConfig, root: Path, address: str) -> dict[str, Any]:
    runtime_env: dict[str, Any] = {"env_vars": worker_environment(config.threads_per_worker)}
    if _address_of_job() is None:
        # A job brings its own code; from outside, the cluster's machines need this checkout.
        runtime_env |= {"working_dir": str(root), "excludes": list(CODE_EXCLUDES)}
    return {"address": address, "runtime_env": runtime_env}


def _address_of_job() -> str | None:
    # RAY_ADDRESS alone is not enough: a stray one in a shell must not send a run to somebody else's cluster.
    return os.environ.get("RAY_ADDRESS") if JOB_VARIABLE in os.environ else None


def _connect(ray: Any, options: dict[str, Any], verbose: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR
    logging.getLogger("ray").setLevel(level)
    for attempt in range(1, START_ATTEMPTS + 1):
        before = set(psutil.Process().children(recursive=True))
        try:
            with _own_sigterm(), nullcontext() if verbose else _silent_stderr():
                ray.init(**options, log_to_driver=verbose, logging_level=level)
            return
        except ConnectionError as error:
            raise no_cluster(options["address"], str(error).strip().partition("\n")[0]) from error
        except Exception as error:  # Ray raises this very class
            # Ray gives its own processes 30 s, which a busy machine may not keep; nothing else is tried again.
            if attempt == START_ATTEMPTS or "timed out during startup" not in str(error):
                raise
            _kill(set(psutil.Process().children(recursive=True)) - before)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray's handler would end a job with exit code 15, which nobody takes for a signal; one that is set stays."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's C++ core announces its log level there; what goes wrong comes as an exception all the same."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _ray_variables(*, private: bool, verbose: bool) -> dict[str, str]:
    """Environment that Ray takes its settings from; token authentication is named explicitly.

    With its mode unset, Ray's servers and clients disagree about whether a token is needed.
    """
    variables = dict(_RAY_DEFAULTS)
    if not verbose:
        variables["RAY_BACKEND_LOG_LEVEL"] = "fatal"  # the C++ core writes its errors to this terminal
    if "RAY_AUTH_MODE" in os.environ:
        return variables
    if private and not _token_in_environment():
        variables["RAY_AUTH_TOKEN"] = _PROCESS_TOKEN
    if private or token_at_hand():
        variables["RAY_AUTH_MODE"] = "token"
    return variables


def token_at_hand() -> bool:
    """Whether the user has a cluster's token: in the environment, or in Ray's file."""
    return _token_in_environment() or (Path.home() / ".ray" / "auth_token").exists()


def _token_in_environment() -> bool:
    return "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set what the user has not set, and take it back afterwards."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _temporary_folder() -> Path:
    """A short one (Unix sockets allow 107 bytes), after removing those of processes that were killed."""
    base = Path("/tmp")
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    for folder in base.glob(f"{TEMP_PREFIX}*"):
        owner = folder.name.removeprefix(TEMP_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{TEMP_PREFIX}{os.getpid()}-", dir=base))


def _object_store_bytes() -> int:
    available = psutil.virtual_memory().available
    if SHARED_MEMORY.is_dir():
        available = min(available, shutil.disk_usage(SHARED_MEMORY).free)  # 64 MB in a default container
    return int(max(min(MAX_OBJECT_STORE, available // 4), 80 * 2**20))


def _free_port() -> int:
    # The kernel's choice lies above 32768, outside the 10002-19999 that Ray gives to workers.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

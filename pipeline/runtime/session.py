"""One Ray session: a private cluster on this machine, or a cluster that is already there.

In: `RuntimeConfig` and the project's root.  Out: a `Session` that says what the cluster offers, for the length of a
`with` block; everything that was started or set for it (processes, environment, temporary files) goes with it.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.config.schema import RuntimeConfig

TEMP_PREFIX = "semi-ray-"
MAX_OBJECT_STORE = 2 * 2**30
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's, not a file of ours
CODE_EXCLUDES = (".git", ".venv", "runs", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")

# Ray starts on a cluster's head with its own environment: a token of this process is of no use there, one of the
# user's is.  Within a process it must stay the same, because Ray's core reads it once.
_PROCESS_TOKEN = secrets.token_hex(32)
_AUTH_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
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


@contextmanager
def ray_session(
    config: RuntimeConfig, *, root: Path, num_cpus: int | None = None, verbose: bool = False
) -> Iterator[Session]:
    """Connect for the length of the block; a session that is already open in this process is used and left open.

    `num_cpus` bounds a private cluster (None: this machine's); `verbose` shows the workers' output on the terminal.
    """
    address = config.address or _address_of_job()
    with ExitStack() as stack:
        stack.enter_context(_environment(_RAY_DEFAULTS | _auth(private=address is None)))
        # Ray reads part of its environment when it is imported.
        ray = importlib.import_module("ray")
        if not ray.is_initialized():
            _quiet_libraries(verbose)
            options: dict[str, Any] = {
                "log_to_driver": verbose,
                "logging_level": logging.INFO if verbose else logging.ERROR,
            }
            start = _join if address else _start_private
            start(ray, stack, options, config=config, root=root, address=address, num_cpus=num_cpus)
        resources = ray.cluster_resources()
        yield Session(
            address=ray.get_runtime_context().gcs_address,
            cpus=float(resources.get("CPU", 0.0)),
            gpus=float(resources.get("GPU", 0.0)),
        )


def worker_environment(threads: int, root: Path | None) -> dict[str, str]:
    """Environment of every worker process: numeric libraries keep to `threads` threads, and stay silent."""
    pinned = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    environment = dict.fromkeys(pinned, str(threads))
    environment |= {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if root is not None:
        # Nothing is installed as a package: the workers import `pipeline` from the same checkout.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    return environment


def fitting(wanted: int, *, session: Session, cpus: float, gpus: float = 0.0, spare_cpus: float = 0.0) -> int:
    """How many of `wanted` processes of this size the cluster can hold at once beside `spare_cpus`.

    Fewer than wanted is fine, none is not: Ray would wait for ever, so the arithmetic is shown instead.
    """
    room = int((session.cpus - spare_cpus) / cpus + 1e-9)
    if gpus:
        room = min(room, int(session.gpus / gpus + 1e-9))
    if room < 1:
        raise ValueError(
            f"the Ray cluster cannot hold one process of {cpus:g} CPU and {gpus:g} GPU beside {spare_cpus:g} CPU of "
            f"other work: it has {session.cpus:g} CPU and {session.gpus:g} GPU; ask for less a process, or join a "
            f"larger cluster with runtime.address"
        )
    return min(wanted, room)


def _start_private(
    ray: Any,
    stack: ExitStack,
    options: dict[str, Any],
    *,
    config: RuntimeConfig,
    root: Path,
    address: str | None,
    num_cpus: int | None,
) -> None:
    assert address is None
    port = _free_port()
    # Without it the workers guess the dashboard's address, and a stale file makes each query take 40 s.
    stack.enter_context(_environment({"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}))
    # Never a bare init: it would join whatever cluster a stray file or variable points to.
    stack.callback(shutil.rmtree, temporary := _temporary_folder(), ignore_errors=True)
    stack.callback(ray.shutdown)
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=port,
        object_store_memory=_object_store_bytes(),
        runtime_env={"env_vars": worker_environment(config.threads_per_worker, root)},
        _temp_dir=str(temporary),
        **options,
    )


def _join(
    ray: Any,
    stack: ExitStack,
    options: dict[str, Any],
    *,
    config: RuntimeConfig,
    root: Path,
    address: str | None,
    num_cpus: int | None,
) -> None:
    runtime_env: dict[str, Any] = {"env_vars": worker_environment(config.threads_per_worker, None)}
    if _address_of_job() is None:
        # A job brings its own code; from outside, the cluster's machines need this checkout.
        runtime_env |= {"working_dir": str(root), "excludes": list(CODE_EXCLUDES)}
    stack.callback(ray.shutdown)
    try:
        ray.init(address=address, runtime_env=runtime_env, **options)
    except ConnectionError as error:
        raise ValueError(
            f"runtime.address: no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}): start one, correct "
            f"the address, or leave it unset for a private cluster"
        ) from error


def _address_of_job() -> str | None:
    # RAY_ADDRESS alone is not enough: a stray one in a shell must not send a run to somebody else's cluster.
    return os.environ.get("RAY_ADDRESS") if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else None


def _auth(*, private: bool) -> dict[str, str]:
    """Token authentication, named explicitly: with the mode unset Ray's server and clients disagree about it."""
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    if private:
        has_token = any(name in os.environ for name in _AUTH_VARIABLES[1:])
        return {"RAY_AUTH_MODE": "token"} | ({} if has_token else {"RAY_AUTH_TOKEN": _PROCESS_TOKEN})
    has_token = any(name in os.environ for name in _AUTH_VARIABLES[1:]) or (Path.home() / ".ray/auth_token").exists()
    return {"RAY_AUTH_MODE": "token"} if has_token else {}


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
    base = Path("/tmp")  # noqa: S108 - mkdtemp below makes a private folder in it
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
    return max(min(MAX_OBJECT_STORE, available // 4), 80 * 2**20)


def _free_port() -> int:
    # The kernel's choice lies above 32768, outside the 10002-19999 that Ray gives to workers.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _quiet_libraries(verbose: bool) -> None:
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)

"""Jobs on a Ray cluster, through its job server.

In: the server's address, a packaged checkout, a command.  Out: the job's log and its exit code, or a `ValueError` of
one line where the server cannot be reached or refuses.

What Ray keeps of a job, for everybody who has the cluster's token: the command, the environment variables given here,
the metadata, the log, and the uploaded files.  Secrets are therefore never given here: the nodes have them.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError

from pipeline.runtime.session import token_at_hand

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_POLL_S = 1.0
_LOST_TAILS = 5
_GONE = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 143}
"""Exit codes where Ray knows none, such as after the head lost the driver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job as the server lists it."""

    id: str
    """Submission id."""
    status: str
    """`PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`."""
    entrypoint: str
    """Its command."""
    started: float
    """Seconds since 1970."""


class _Followed:
    """A log that the server sends from its beginning after each broken connection; nothing is written twice."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._written = self._seen = 0

    def rewind(self) -> None:
        """The next text is the log's first."""
        self._seen = 0

    def take(self, text: str) -> None:
        """Write what is new in the next text."""
        if fresh := text[max(0, self._written - self._seen) :]:
            self._write(fresh)
        self._seen += len(text)
        self._written = max(self._written, self._seen)


class JobServer:
    """The job server of a cluster; every method raises `ValueError` with one line where it cannot answer."""

    def __init__(self, address: str | None = None) -> None:
        self.address = _url(address)
        if "RAY_AUTH_MODE" not in os.environ and token_at_hand():
            # With the mode unset Ray's client sends no token at all.
            os.environ["RAY_AUTH_MODE"] = "token"
        with self._one_line_errors():
            sdk = importlib.import_module("ray.job_submission")
            for name in (
                "ray",
                "ray.dashboard",
                "ray.dashboard.modules.job.sdk",
                "ray.dashboard.modules.dashboard_sdk",
            ):
                logging.getLogger(name).setLevel(logging.ERROR)
            # Ray prefers these variables to the address that it is given.
            for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
                os.environ.pop(name, None)
            self._client: Any = sdk.JobSubmissionClient(self.address)

    def submit(
        self,
        command: Sequence[str],
        *,
        working_dir: Path,
        submission_id: str,
        environment: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> str:
        """Upload `working_dir` and start the command in it; returns the job's id."""
        with self._one_line_errors():
            return str(
                self._client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=submission_id,
                    runtime_env={"working_dir": str(working_dir), "env_vars": dict(environment)},
                    metadata=dict(metadata),
                )
            )

    def jobs(self) -> list[JobRecord]:
        """All submitted jobs, the newest first."""
        with self._one_line_errors():
            found = self._client.list_jobs()
        records = [
            JobRecord(
                id=job.submission_id,
                status=_name(job.status),
                entrypoint=job.entrypoint,
                started=(job.start_time or 0) / 1000,
            )
            for job in found
            if job.submission_id
        ]
        return sorted(records, key=lambda record: record.started, reverse=True)

    def follow(self, job_id: str, write: Callable[[str], None]) -> int:
        """Hand the log to `write` as it grows; returns the job's exit code when it has ended."""
        self.exit_code(job_id)  # an unknown job is told here
        log = _Followed(write)
        for _ in range(_LOST_TAILS):
            try:
                asyncio.run(self._tail(job_id, log))
                broken = None
            except (RuntimeError, OSError, ClientError) as error:
                broken = error
            while broken is None:
                # The log ends a moment before the job's state says so.
                if (code := self.exit_code(job_id)) is not None:
                    return code
                time.sleep(_POLL_S)
            time.sleep(_POLL_S)
        raise ValueError(
            f"the connection to {self.address} broke {_LOST_TAILS} times; the job may go on: jobs.submit logs {job_id}"
        )

    async def _tail(self, job_id: str, log: _Followed) -> None:
        log.rewind()
        async for text in self._client.tail_job_logs(job_id):
            log.take(text)

    def exit_code(self, job_id: str) -> int | None:
        """Of an ended job; None while it has not ended."""
        with self._one_line_errors(job_id):
            info = self._client.get_job_info(job_id)
        status = _name(info.status)
        if status not in _GONE:
            return None
        code = info.driver_exit_code
        if code is None or (code == 0) != (status == "SUCCEEDED"):
            return _GONE[status]
        return int(code) if code > 0 else 128 - int(code) if code < 0 else 0

    def log(self, job_id: str) -> str:
        """All that a job has printed so far."""
        with self._one_line_errors(job_id):
            return str(self._client.get_job_logs(job_id))

    def stop(self, job_id: str) -> bool:
        """End a job by SIGTERM; False where it had ended before."""
        with self._one_line_errors(job_id):
            return bool(self._client.stop_job(job_id))

    @contextmanager
    def _one_line_errors(self, job_id: str | None = None) -> Iterator[None]:
        try:
            yield
        except ConnectionError as error:
            raise ValueError(
                f"no Ray cluster answers at {self.address}: give --address http://HOST:8265 of its head, or open a "
                "tunnel to it (`ray dashboard cluster/FILE.yaml`, `kubectl port-forward`)"
            ) from error
        except Exception as error:
            text = _line(error)
            if type(error).__name__ == "AuthenticationError":
                raise ValueError(
                    f"the Ray cluster at {self.address} refused this token, or the lack of one: set "
                    "RAY_AUTH_TOKEN_PATH to the file with the cluster's token, and RAY_AUTH_MODE=token"
                ) from error
            if job_id is not None and "404" in text:
                raise ValueError(f"no job {job_id!r} at {self.address}: see `jobs.submit list`") from error
            raise ValueError(f"the Ray cluster at {self.address} could not do it: {text}") from error


def _url(address: str | None) -> str:
    found = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    if not found.startswith(("http://", "https://")):
        raise ValueError(f"--address: expected http://HOST:PORT of the dashboard (port 8265 by default), got {found!r}")
    return found.rstrip("/")


def _name(status: Any) -> str:
    return str(getattr(status, "value", status))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

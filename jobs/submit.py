"""Run a job on a Ray cluster: pack the checkout, upload it, follow the log, return the job's exit code.

In: a job with its arguments, as one would give them to `python -m jobs.JOB`; where the cluster is; storage that all
nodes share.  Out: the job's log and exit code.  `list`, `logs ID` and `stop ID` look after submitted jobs.

    python -m jobs.submit --storage /shared/semi meta_train --preset miniature --name first
    python -m jobs.submit list
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jobs._cli import INTERRUPTED, REQUIRED_ENVIRONMENT, config_from, console, job_parser, run_job
from pipeline.config.root import project_root
from pipeline.evaluation.provenance import SUBMITTED, git_commit
from pipeline.runtime.package import MAX_MIB, SUBMITTED_CONFIG, on_the_cluster, stage_package
from pipeline.runtime.submit import JobServer

ACTIONS = ("list", "logs", "stop")
_LOCAL_ONLY = {"submit", "ui"}
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def main() -> None:
    """Entry point."""
    args, rest = _parser().parse_known_args()
    if args.command in ACTIONS:
        config_from(args)  # sets how much is shown
        _look_after(args, rest)
    elif args.command in submittable():
        _submit(args, rest)
    else:
        raise ValueError(
            f"no job {args.command!r}: choose one of {', '.join(submittable())}, or an action: {', '.join(ACTIONS)}"
        )


def submittable() -> list[str]:
    """Jobs that make sense on a cluster."""
    folder = project_root() / "jobs"
    names = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    return sorted(names - _LOCAL_ONLY)


def environment_from(entries: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` as it stands, `KEY` from this environment; secrets are refused, as Ray would show them."""
    found: dict[str, str] = {}
    for entry in entries:
        key, given, value = entry.partition("=")
        if not _VARIABLE.fullmatch(key):
            raise ValueError(f"--env: expected KEY or KEY=VALUE, got {key!r}")
        if _SECRET.search(key):
            raise ValueError(
                f"--env {key}: this looks like a secret, and Ray shows a job's environment to everybody with the "
                f"cluster's token: let the nodes have it (Kubernetes Secret, `docker run --env-file`) and say "
                f"--secret {key}"
            )
        if not given and key not in os.environ:
            raise ValueError(f"--env {key}: not set in this environment: set it, or give --env {key}=VALUE")
        found[key] = value if given else os.environ[key]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.allow_abbrev = False
    parser.add_argument("command", metavar="JOB", help=f"a job with its arguments, or {', '.join(ACTIONS)} [ID]")
    parser.add_argument(
        "--address", metavar="URL", help="http://HOST:8265 of the head (default: RAY_ADDRESS, localhost)"
    )
    parser.add_argument(
        "--storage", metavar="DIR|URI", help="folder that all nodes share, in place of runs/; or a bucket, for one node"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="KEY[=VALUE]", help="set for the job; Ray keeps and shows it"
    )
    parser.add_argument(
        "--secret", action="append", default=[], metavar="KEY", help="must be set on the nodes; only its name travels"
    )
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and return")
    parser.add_argument("--max-mib", type=float, default=MAX_MIB, help=f"largest upload (default: {MAX_MIB})")
    return parser


def _submit(args: argparse.Namespace, rest: list[str]) -> None:
    root = project_root()
    config = on_the_cluster(config_from(args), root, args.storage)
    environment = environment_from(args.env)
    if wrong := [key for key in args.secret if not _VARIABLE.fullmatch(key)]:
        # Without what follows the name: it may be the secret itself.
        raise ValueError(f"--secret: expected the name of a variable, got {wrong[0].partition('=')[0]!r} and more")
    if args.secret:
        environment[REQUIRED_ENVIRONMENT] = ",".join(args.secret)
    commit = str(git_commit(root))
    command = ["python", "-m", f"jobs.{args.command}", "--config", SUBMITTED_CONFIG, *rest]
    command += ["--verbose"] if args.verbose else []
    with tempfile.TemporaryDirectory(prefix="semi-submit-") as folder:
        size = stage_package(root, config, Path(folder), max_mib=args.max_mib)
        server = JobServer(args.address)
        job_id = server.submit(
            command,
            working_dir=Path(folder),
            submission_id=f"{args.command}-{config.name}-{secrets.token_hex(3)}",
            environment={**environment, SUBMITTED: commit, "PYTHONUNBUFFERED": "1"},
            metadata={"job": args.command, "run": config.name, "commit": commit},
        )
    console.print(f"submitted {job_id} ({size / 2**20:.1f} MiB) to {server.address}", markup=False, soft_wrap=True)
    if not args.no_wait:
        _follow(server, job_id)


def _follow(server: JobServer, job_id: str) -> None:
    try:
        code = server.follow(job_id, _write)
    except KeyboardInterrupt:
        print(f"\nno longer followed, {job_id} goes on: jobs.submit logs {job_id}, or stop {job_id}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(code)


def _look_after(args: argparse.Namespace, rest: list[str]) -> None:
    if len(rest) != (args.command != "list"):
        raise ValueError(
            f"{args.command}: expected {'no' if args.command == 'list' else 'one'} job id, got {len(rest)}"
        )
    server = JobServer(args.address)
    if args.command == "list":
        for job in server.jobs():
            started = datetime.fromtimestamp(job.started).astimezone().isoformat(sep=" ", timespec="seconds")
            console.print(f"{job.status:<10} {started}  {job.id}", markup=False, soft_wrap=True)
    elif args.command == "stop":
        ended = server.stop(rest[0])
        console.print(f"{rest[0]} {'is stopping' if ended else 'had ended before'}", markup=False, soft_wrap=True)
    elif args.no_wait:
        _write(server.log(rest[0]))
    else:
        _follow(server, rest[0])


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    run_job(main)

"""What every job shares: arguments, one-line errors, quiet libraries and a progress line.

In: `--preset`, `--config`, `--set`, `--name`, `--verbose`.  Out: a checked `ExperimentConfig`; exit code 0, 2 for
what the user can mend (one line on stderr), 130 after Ctrl-C.

    def main() -> None:
        args = job_parser(__doc__).parse_args()
        config = config_from(args)
        with stage_progress("pretrain projector", total=config.pretrain.optim.steps, unit="steps") as advance:
            ...
            advance(1, note=f"loss {loss:.3f}")

    if __name__ == "__main__":
        run_job(main)
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from pipeline.config.load import load_config
from pipeline.config.presets import PRESETS
from pipeline.config.root import require_checkout
from pipeline.config.schema import ExperimentConfig
from pipeline.runtime.environment import MEMORY

DEFAULT_PRESET = "miniature"
USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143
REQUIRED_ENVIRONMENT = "SEMI_REQUIRED_ENV"
"""Names of variables that `jobs.submit --secret` expects the cluster's nodes to have."""

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

console = Console(highlight=False)


class Advance(Protocol):
    """Tells the progress line that `count` more units are done."""

    def __call__(self, count: int = 1, note: str = "", unpaced: bool = False) -> None:
        """`note` is a short text shown behind the figures, such as the loss. `unpaced`: these units and those before
        say nothing of the pace, as an earlier process did them or the start-up is in their time."""


def job_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments every job takes; a job adds its own to the parser it gets."""
    summary = (description or "").strip().partition("\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument(
        "--preset", help=f"one of {', '.join(PRESETS)} (default: {DEFAULT_PRESET}, unless --config is given)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file: whole, or partial with `preset: NAME`")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="A.B=VALUE",
        help="override one field; repeatable",
    )
    parser.add_argument("--name", help="name of the run; outputs go to <runs_dir>/<name>")
    parser.add_argument("--verbose", action="store_true", help="show library messages, and tracebacks of errors")
    return parser


def config_from(args: argparse.Namespace) -> ExperimentConfig:
    """The configuration that the arguments ask for; also sets how much is shown."""
    require_checkout()
    _set_verbosity(args.verbose)
    _set_memory()
    _require_environment()
    preset = args.preset if args.preset or args.config else DEFAULT_PRESET
    overrides = [*args.overrides, *([f"name={json.dumps(args.name)}"] if args.name else [])]
    return load_config(preset=preset, file=args.config, overrides=overrides)


def run_job(main: Callable[[], None]) -> NoReturn:
    """Run a job and leave the process: 0, 2 with one `error: ...` line, 130 or 143."""
    # A terminated job unwinds like an interrupted one: its MLflow runs get their final state, Ray is shut down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        main()
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except (ValueError, OSError) as error:
        if logging.getLogger().isEnabledFor(logging.INFO):
            traceback.print_exc()
        _fail(" ".join(str(error).split()) or type(error).__name__, USER_ERROR)
    sys.exit(0)


_INSTANT_S = 0.05
"""What takes less found its work done: a throughput would say nothing."""


def throughput(done: int, seconds: float) -> str:
    """How fast units were done, for the closing line of a stage: a rate, or seconds of one where they are slow."""
    if seconds < _INSTANT_S:
        return ""
    return f"  {done / seconds:,.1f}/s" if done > seconds / 10 else f"  {seconds / done:,.0f} s each"


_REMINDER_S = 60.0


@contextmanager
def stage_progress(title: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
    """One progress line of a stage, with throughput and time left.

    Where there is no terminal, such as in the log of a submitted job: a line a minute, and a closing one.
    """
    columns = (
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Throughput(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    started = said = time.monotonic()
    live = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not live) as progress:
        task = progress.add_task(title, total=total, note="", unpaced=0, unpaced_s=0.0)
        state = progress.tasks[0]

        def advance(count: int = 1, note: str = "", unpaced: bool = False) -> None:
            nonlocal said
            progress.update(task, advance=count, note=note or state.fields["note"])
            now = time.monotonic()
            if unpaced:
                progress.update(task, unpaced=int(state.completed), unpaced_s=now - started)
            if not live and now - said >= _REMINDER_S and 0 < state.completed < (total or math.inf):
                said = now
                _say_progress(state, unit, now - started, total)

        yield advance
    _say_progress(state, unit, time.monotonic() - started)


def _say_progress(state: Task, unit: str, seconds: float, total: int | None = None) -> None:
    """With `total`: how much of it is done, and how long the rest will take."""
    done = int(state.completed)
    of = "" if total is None else f" of {total:,}"
    figures = f"{done:,}{of} {unit}".strip() if done else ""
    count, taken = _paced(state, seconds)
    if count > 0:
        figures += throughput(count, taken)
        figures += "" if total is None else f"  {timedelta(seconds=round(taken * (total - done) / count))} left"
    line = f"{state.description:<22} {seconds:7.1f} s  {figures}  {state.fields['note']}"
    console.print(line.rstrip(), markup=False, soft_wrap=True)


def _paced(state: Task, seconds: float) -> tuple[int, float]:
    """The units that tell how fast the stage goes, and their time, `seconds` after it began."""
    return int(state.completed) - state.fields["unpaced"], seconds - state.fields["unpaced_s"]


class _Throughput(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        count, taken = _paced(task, task.elapsed or 0.0)
        speed = max(count, 0) / taken if taken > 0 else 0.0
        return Text(f"{speed:,.1f} {self._unit}/s".replace(" /s", "/s"))


def _require_environment() -> None:
    names = filter(None, os.environ.get(REQUIRED_ENVIRONMENT, "").split(","))
    if missing := [name for name in names if not os.environ.get(name)]:
        raise ValueError(
            f"--secret {missing[0]}: not set on the node that this job started on ({socket.gethostname()}): give every "
            "node this variable, by a Kubernetes Secret or `docker run --env-file`"
        )


def _set_verbosity(verbose: bool) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    if verbose:
        return
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    warnings.simplefilter("ignore")


def _set_memory() -> None:
    for key, value in MEMORY.items():
        os.environ.setdefault(key, value)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)

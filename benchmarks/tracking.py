"""Whether tracking loses a point under load, and what of a training step it costs.

`python -m benchmarks.tracking`.  In: how many runs and points.  Out: a table: points sent and found again (name, step
and value compared) in a SQLite store and behind a real `mlflow server`, each written by several processes with several
threads, as trials of a sweep do; and the share of a training step that logging its metrics takes.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from pipeline.config.schema import TrackingConfig
from pipeline.tracking import RunHandle, Tracker, attach, open_tracker
from pipeline.tracking.store import Store, local_uri

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = f"benchmark-{secrets.token_hex(4)}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=64, help="child runs at once (default: 64)")
    parser.add_argument("--points", type=int, default=1000, help="points of each (default: 1000)")
    parser.add_argument("--processes", type=int, default=4, help="processes that they are spread over (default: 4)")
    parser.add_argument("--steps", type=int, default=300, help="training steps to time (default: 300)")
    parser.add_argument("--uri", help="of a server to measure, in an experiment of its own (default: one is started)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semi-tracking-") as name:
        folder = Path(name)
        _report("SQLite", folder / "sqlite", None, args)
        with nullcontext(args.uri) if args.uri else _server(folder / "server") as uri:
            _report("mlflow server", folder / "http", uri, args)
            share, each_us = step_share(folder / "steps", uri, args.steps)
            step_ms = each_us / share / 1000
            print(f"tracking takes {each_us:.0f} us of a training step of {step_ms:.1f} ms, {100 * share:.3f} %")


def _report(title: str, runs_dir: Path, uri: str | None, args: argparse.Namespace) -> None:
    began = time.perf_counter()
    sent, found, equal = load(runs_dir, uri, runs=args.runs, points=args.points, processes=args.processes)
    print(
        f"{title}: {args.runs} runs at once, {sent} points sent, {found} found, {equal} equal, "
        f"{sent - equal} lost; {time.perf_counter() - began:.0f} s",
        flush=True,
    )


def load(runs_dir: Path, uri: str | None, *, runs: int, points: int, processes: int) -> tuple[int, int, int]:
    """Write from many threads of many processes; points sent, points in the store, and those that are as sent."""
    with open_run(runs_dir, uri, "load") as parent:
        handle = parent.handle
        assert handle is not None
        code = (
            "from pathlib import Path, PosixPath\nfrom benchmarks.tracking import write_children\n"
            "from pipeline.tracking import RunHandle\n"
            "write_children(RunHandle(**{handle!r}), {numbers!r}, {points})\n"
        )
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", code.format(handle=asdict(handle), numbers=numbers, points=points)], cwd=ROOT
            )
            for numbers in ([*range(first, runs, processes)] for first in range(processes))
        ]
        codes = [writer.wait() for writer in writers]
        assert not any(codes), codes
    found, equal = check(uri or local_uri(runs_dir), runs, points)
    return runs * points, found, equal


def write_children(handle: RunHandle, numbers: list[int], points: int) -> None:
    """One thread a child run."""

    def write(parent: Tracker, number: int) -> None:
        with parent.child(f"trial {number}", "trial", {"number": number}, key=str(number)) as trial:
            for step in range(points):
                trial.log_metrics({"loss": _value(number, step)}, step)

    with attach(handle) as parent:
        threads = [threading.Thread(target=write, args=(parent, number)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def check(uri: str, runs: int, points: int) -> tuple[int, int]:
    """Points of the trials in the store, and how many of them are as they were sent; every run must have ended."""
    store = Store(uri, EXPERIMENT)
    found = equal = 0
    trials = store.client.search_runs([store.experiment_id], filter_string="tags.kind = 'trial'", max_results=5000)
    assert len(trials) == runs, f"{len(trials)} runs instead of {runs}"
    for trial in trials:
        assert trial.info.status == "FINISHED", trial.info
        number = int(trial.data.params["number"])
        history = [(p.step, p.value) for p in store.client.get_metric_history(trial.info.run_id, "loss")]
        found += len(history)
        equal += len(set(history) & {(step, _value(number, step)) for step in range(points)})
    return found, equal


def step_share(runs_dir: Path, uri: str, steps: int) -> tuple[float, float]:
    """Time inside `log_metrics` over the time of a small training step (some 20 ms), and its microseconds.

    One thread, as in a worker. Steps of real trainings are longer: the miniature suite's take 300 ms.
    """
    import torch

    torch.set_num_threads(1)
    weight = torch.randn(512, 512, requires_grad=True)
    inputs = torch.randn(1024, 512)
    tracking = 0.0
    with open_run(runs_dir, uri, "steps") as run, run.stage("meta_train") as stage:
        began = time.perf_counter()
        for step in range(steps):
            loss = (inputs @ weight).tanh().square().mean()
            loss.backward()
            start = time.perf_counter()
            stage.log_metrics(
                {"loss": float(step), "learning_rate": 1e-3, "gradient_norm": 1.0, "queries_per_s": 2.0}, step
            )
            tracking += time.perf_counter() - start
        whole = time.perf_counter() - began
    return tracking / whole, 1e6 * tracking / steps


def open_run(runs_dir: Path, uri: str | None, name: str) -> Tracker:
    """A parent run."""
    return open_tracker(
        TrackingConfig(uri=uri, experiment=EXPERIMENT),
        runs_dir,
        name=name,
        params={},
        commit="unknown",
        config_fingerprint="none",
        source="benchmarks.tracking",
        kind="sweep",
    )


def _value(number: int, step: int) -> float:
    return number + step / 1024


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    from tests.mlflow_server import MlflowServer

    server = MlflowServer(folder)
    try:
        server.start()
        yield server.uri
    finally:
        server.kill()


if __name__ == "__main__":
    main()

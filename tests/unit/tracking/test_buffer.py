"""Metrics on their way to the store."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.tracking.buffer import MetricBuffer, Point


class Store:
    """Takes batches, unless it is away."""

    def __init__(self, away: int = 0) -> None:
        self.batches: list[list[Point]] = []
        self.away = away

    def __call__(self, points: Sequence[Point]) -> None:
        if self.away > 0:
            self.away -= 1
            raise ConnectionError("no answer")
        self.batches.append(list(points))

    @property
    def steps(self) -> list[int]:
        return [point.step for batch in self.batches for point in batch]


def buffer(store: Store, spill: Path, **options: float) -> MetricBuffer:
    settings = {"max_points": 100, "interval_s": 60.0, "close_attempts": 2} | options
    return MetricBuffer(store, spill=spill, errors=(ConnectionError,), **settings)  # type: ignore[arg-type]


def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    """Whether it comes true; the limit is generous, since the machine may be busy."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_points_arrive_in_order_in_few_batches(tmp_path: Path) -> None:
    store = Store()
    metrics = buffer(store, tmp_path / "spill")
    for step in range(250):
        metrics.add({"loss": step / 2}, step)
    metrics.close()
    assert store.steps == list(range(250))
    assert len(store.batches) <= 5
    assert max(map(len, store.batches)) <= 100
    assert store.batches[0][1].value == 0.5


def test_nothing_is_sent_step_by_step(tmp_path: Path) -> None:
    store = Store()
    metrics = buffer(store, tmp_path / "spill")
    for step in range(99):
        metrics.add({"loss": 1.0}, step)
    assert store.batches == []
    metrics.close()
    assert len(store.batches) == 1


def test_a_full_buffer_and_a_passed_interval_are_sent_in_the_background(tmp_path: Path) -> None:
    store = Store()
    metrics = buffer(store, tmp_path / "spill")
    metrics.add({str(number): 0.0 for number in range(100)}, 0)
    assert eventually(lambda: store.steps == [0] * 100)
    metrics.close()
    quick = buffer(store, tmp_path / "spill", interval_s=0.05)
    quick.add({"loss": 0.0}, 7)
    assert eventually(lambda: store.steps == [0] * 100 + [7])
    quick.close()


def test_a_slow_store_does_not_hold_up_the_caller(tmp_path: Path) -> None:
    sending, release = threading.Event(), threading.Event()
    released: list[bool] = []

    def stuck(_: Sequence[Point]) -> None:
        sending.set()
        released.append(release.wait(60))

    metrics = MetricBuffer(stuck, spill=tmp_path / "spill", errors=(), max_points=10, interval_s=0.01)
    metrics.add({"loss": 0.0}, 0)
    assert sending.wait(60)
    for step in range(1, 1000):
        metrics.add({"loss": 0.0}, step)
    assert released == [], "all were added while the first was still on its way"
    release.set()
    metrics.close()
    assert len(released) > 1
    assert all(released)


def test_a_store_that_comes_back_gets_everything_once(tmp_path: Path) -> None:
    store = Store(away=3)
    metrics = buffer(store, tmp_path / "spill", interval_s=0.02)
    for step in range(150):
        metrics.add({"loss": 0.0}, step)
    assert eventually(lambda: len(store.steps) == 150)
    metrics.close()
    assert store.steps == list(range(150))
    assert not (tmp_path / "spill").exists()


def test_what_never_arrives_is_on_disk_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(away=10**9)
    metrics = buffer(store, tmp_path / "runs" / "spill.jsonl")
    metrics.add({"loss": 0.25}, 3)
    with caplog.at_level(logging.WARNING):
        metrics.close()
    (line,) = (tmp_path / "runs" / "spill.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["name"], record["value"], record["step"]) == ("loss", 0.25, 3)
    assert "did not take 1 metrics" in caplog.text


def test_flush_says_whether_the_store_took_it(tmp_path: Path) -> None:
    store = Store(away=1)
    metrics = buffer(store, tmp_path / "spill")
    metrics.add({"loss": 0.0}, 0)
    assert [metrics.flush(), metrics.flush()] == [False, True]
    metrics.close()
    assert store.steps == [0]


def test_threads_may_add_at_once(tmp_path: Path) -> None:
    store = Store()
    metrics = buffer(store, tmp_path / "spill", interval_s=0.01)

    def add(base: int) -> None:
        for number in range(200):
            metrics.add({"x": 0.0}, base + number)

    threads = [threading.Thread(target=add, args=(base,)) for base in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.close()
    assert sorted(store.steps) == [base + i for base in (0, 1000, 2000) for i in range(200)]


def test_adding_after_the_end_is_a_bug_that_is_seen(tmp_path: Path) -> None:
    metrics = buffer(Store(), tmp_path / "spill")
    metrics.close()
    with pytest.raises(RuntimeError, match="closed"):
        metrics.add({"loss": 0.0}, 0)

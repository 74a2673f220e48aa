"""The first SIGTERM asks for a stop, the second one does what it did before; a request that was left over is gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.training.stop import TrainingStopped, stop_on_sigterm


class Ended(BaseException):
    """What this process's own handler of SIGTERM raises."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


def test_first_asks_second_ends(tmp_path: Path) -> None:
    request = tmp_path / "stop"
    with pytest.raises(Ended), stop_on_sigterm(request):
        assert not request.exists()
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.exists()
        os.kill(os.getpid(), signal.SIGTERM)
    assert not request.exists()
    with pytest.raises(Ended):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_request_that_came_too_late_ends_the_process_after_the_block(tmp_path: Path) -> None:
    request, done = tmp_path / "stop", list[int]()
    with pytest.raises(Ended):
        with stop_on_sigterm(request):
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(1)
        done.append(2)
    assert done == [1] and not request.exists()


def test_an_answered_request_is_not_answered_twice(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped), stop_on_sigterm(tmp_path / "stop"):
        os.kill(os.getpid(), signal.SIGTERM)
        raise TrainingStopped(3, 8)
    assert not (tmp_path / "stop").exists()


def test_left_over_request_stops_nobody(tmp_path: Path) -> None:
    request = tmp_path / "stop"
    request.touch()
    with stop_on_sigterm(request):
        assert not request.exists()


def test_another_thread_gets_no_signals(tmp_path: Path) -> None:
    request, seen = tmp_path / "stop", list[bool]()

    def body() -> None:
        with stop_on_sigterm(request):
            seen.append(request.exists())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]

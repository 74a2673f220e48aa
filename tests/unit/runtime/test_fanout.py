"""Independent pieces of work: what an error of one does to the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import RuntimeConfig
from pipeline.runtime.fanout import fan_out

LOCAL = RuntimeConfig(engine="local", workers=1)


def _inverse(value: float) -> float:
    return 1.0 / value


def test_an_error_stops_the_rest() -> None:
    done: list[float] = []
    with pytest.raises(ZeroDivisionError):
        fan_out(_inverse, [1.0, 0.0, 2.0], runtime=LOCAL, root=Path(), on_done=lambda item, _: done.append(item))
    assert done == [1.0]


def test_a_failure_that_is_taken_lets_the_others_go_on() -> None:
    done: dict[float, float] = {}
    failed: dict[float, Exception] = {}
    fan_out(
        _inverse,
        [1.0, 0.0, 2.0],
        runtime=LOCAL,
        root=Path(),
        on_done=done.__setitem__,
        on_failed=failed.__setitem__,
    )
    assert done == {1.0: 1.0, 2.0: 0.5}
    assert [type(error) for error in failed.values()] == [ZeroDivisionError]


def test_an_error_of_the_receiver_is_no_failure_of_the_item() -> None:
    def refuse(item: float, output: float) -> None:
        raise RuntimeError("disk full")

    failed: list[float] = []
    with pytest.raises(RuntimeError, match="disk full"):
        fan_out(
            _inverse, [1.0], runtime=LOCAL, root=Path(), on_done=refuse, on_failed=lambda item, _: failed.append(item)
        )
    assert failed == []

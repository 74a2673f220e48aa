"""Asking a cluster for room; the real thing is `tests/integration/test_scale_up.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from pipeline.config.schema import RuntimeConfig
from pipeline.runtime import capacity
from pipeline.runtime.capacity import bundle, fitting, scaled_up
from pipeline.runtime.session import Session

BEFORE = Session(address="a", cpus=0.0, gpus=0.0)
AFTER = Session(address="a", cpus=4.0, gpus=1.0, nodes=3)


@dataclass
class Cluster:
    """A stand-in for `ray.util`: it has room for the first `room` processes that are asked for."""

    room: int
    error: type[BaseException] | None = None
    asked: list[Mapping[str, float]] = field(default_factory=list)
    given_back: list[int] = field(default_factory=list)

    def placement_group(self, bundles: list[Mapping[str, float]]) -> Place:
        (one,) = bundles
        self.asked.append(one)
        return Place(self, len(self.asked))

    def remove_placement_group(self, place: Place) -> None:
        self.given_back.append(place.number)


@dataclass
class Place:
    cluster: Cluster
    number: int

    def wait(self, timeout_seconds: float) -> bool:
        if self.cluster.error is not None:
            raise self.cluster.error
        return self.number <= self.cluster.room


def joined(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    import ray.util

    monkeypatch.setattr(ray.util, "placement_group", cluster.placement_group)
    monkeypatch.setattr(ray.util, "remove_placement_group", cluster.remove_placement_group)
    monkeypatch.setattr(capacity, "connected", lambda: AFTER)
    return cluster


def test_what_is_there_is_all_there_is_unless_the_cluster_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = joined(Cluster(room=0), monkeypatch)
    assert scaled_up(BEFORE, RuntimeConfig(), [bundle(cpus=1.0)]) is BEFORE
    assert cluster.asked == []


@pytest.mark.parametrize("room", [0, 1, 2])
def test_every_process_is_asked_for_on_its_own_and_its_place_given_back(
    room: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = joined(Cluster(room=room), monkeypatch)
    wanted = [bundle(cpus=1.0), bundle(cpus=0.9, gpus=1.0)]
    assert scaled_up(BEFORE, RuntimeConfig(scale_up_s=0.01), wanted) == AFTER
    assert cluster.asked == [{"CPU": 1.0}, {"CPU": 0.9, "GPU": 1.0}]
    assert cluster.given_back == [1, 2]
    told = f"waiting for nodes: the Ray cluster has room for {room} of 2 processes, and 0.01 s (runtime.scale_up_s)"
    assert capsys.readouterr().err.startswith(told) if room < 2 else not capsys.readouterr().err


def test_places_are_given_back_when_waiting_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = joined(Cluster(room=1, error=KeyboardInterrupt), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        scaled_up(BEFORE, RuntimeConfig(scale_up_s=1.0), [bundle(cpus=1.0)] * 3)
    assert cluster.given_back == [1, 2, 3]


@pytest.mark.parametrize(
    ("wanted", "cpus", "gpus", "spare", "expected"),
    [(2, 1.0, 0.0, 0.0, 2), (8, 1.0, 0.0, 0.0, 4), (8, 0.9, 0.0, 1.0, 3), (8, 0.1, 0.0, 3.9, 1), (8, 1.0, 0.5, 0.0, 2)],
)
def test_as_many_as_fit(wanted: int, cpus: float, gpus: float, spare: float, expected: int) -> None:
    session = Session(address="a", cpus=4.0, gpus=1.0)
    assert fitting(wanted, session=session, cpus=cpus, gpus=gpus, spare_cpus=spare) == expected


@pytest.mark.parametrize(("cpus", "gpus"), [(5.0, 0.0), (1.0, 1.0)])
def test_what_never_fits_is_refused_with_the_arithmetic(cpus: float, gpus: float) -> None:
    session = Session(address="a", cpus=4.0, gpus=0.0)
    message = f"cannot hold one process of {cpus:g} CPU and {gpus:g} GPU beside 0 CPU .* it has 4 CPU and 0 GPU"
    with pytest.raises(ValueError, match=message):
        fitting(1, session=session, cpus=cpus, gpus=gpus)

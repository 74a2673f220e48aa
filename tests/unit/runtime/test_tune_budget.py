"""Trials at once: as many as find a place for all their workers, never one more, and never none in silence."""

from __future__ import annotations

import re

import pytest

from pipeline.runtime.tune_budget import Need, Node, plan

TWO_CPUS = [Node(cpus=2.0)]


@pytest.mark.parametrize(
    ("trials", "need", "nodes", "limit", "concurrent", "because"),
    [
        (12, Need(workers=1, cpus=0.9), TWO_CPUS, None, 2, "more do not fit"),
        (12, Need(workers=2, cpus=0.9), TWO_CPUS, None, 1, "more do not fit"),
        # The drivers take a hundredth of a CPU each, so two whole ones are not left.
        (12, Need(workers=1, cpus=1.0), TWO_CPUS, None, 1, "more do not fit"),
        (1, Need(workers=1, cpus=0.9), TWO_CPUS, None, 1, "all trials"),
        (12, Need(workers=1, cpus=0.5), TWO_CPUS, 2, 2, "the limit `concurrent`"),
        (64, Need(workers=2, cpus=4, gpus=1), [Node(cpus=17, gpus=4)] * 3, None, 6, "more do not fit"),
        (64, Need(workers=2, cpus=4, gpus=1), [Node(cpus=16, gpus=4)] * 3, None, 4, "more do not fit"),
        (64, Need(workers=1, cpus=4, gpus=0.5), [Node(cpus=64, gpus=4), Node(cpus=8)], None, 8, "more do not fit"),
    ],
)
def test_trials_at_once(
    trials: int, need: Need, nodes: list[Node], limit: int | None, concurrent: int, because: str
) -> None:
    budget = plan(trials, need, nodes, limit=limit)
    assert budget.concurrent == concurrent
    assert f"{trials} trials, {concurrent} at once ({because}): each takes {need}" in budget.reason


@pytest.mark.parametrize(
    ("need", "nodes", "message"),
    [
        (
            Need(workers=1, cpus=8),
            TWO_CPUS,
            "a trial needs 1 worker of 8 CPU (and 0.01 CPU for its driver), and the Ray cluster has 2 CPU and 0 GPU on",
        ),
        # Enough CPUs, but no node has room for a whole worker.
        (Need(workers=1, cpus=3), [Node(cpus=2)] * 4, "has 8 CPU and 0 GPU on 4 nodes"),
        (Need(workers=4, cpus=1, gpus=1), [Node(cpus=16, gpus=2)], "4 workers of 1 CPU and 1 GPU"),
    ],
)
def test_a_trial_that_nobody_can_hold_is_refused_with_the_arithmetic(
    need: Need, nodes: list[Node], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(4, need, nodes)

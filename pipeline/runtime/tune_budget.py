"""How many trials of a sweep run at once, and why; computed before anything starts.

In: what a trial needs and what each node has.  Out: a `Budget`, or a `ValueError` that shows the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DRIVER_CPUS = 0.01
"""A trial's driver only waits for its workers; Ray Tune refuses 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a machine of the cluster offers."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one trial takes."""

    workers: int
    cpus: float
    """CPUs a worker."""
    gpus: float = 0.0
    """GPUs a worker."""

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} worker{'s' if self.workers > 1 else ''} of {self.cpus:g} CPU{gpus}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Trials at once."""

    concurrent: int
    reason: str
    """One line for the user."""


def plan(trials: int, need: Need, nodes: Sequence[Node], *, limit: int | None = None) -> Budget:
    """The most trials, at most `limit`, whose workers all find a place; Ray would wait for ever for one that cannot."""
    most = min(trials, limit or trials)
    fits = next((n for n in range(most, 0, -1) if _places(nodes, need, n) >= n * need.workers), 0)
    has = f"{sum(node.cpus for node in nodes):g} CPU and {sum(node.gpus for node in nodes):g} GPU on {len(nodes)} node"
    has += "s" if len(nodes) != 1 else ""
    if not fits:
        raise ValueError(
            f"a trial needs {need} (and {DRIVER_CPUS:g} CPU for its driver), and the Ray cluster has {has}: ask for "
            "less with `workers` of the space or runtime.cpus_per_worker, join a larger cluster with runtime.address, "
            "or, where the cluster adds nodes on demand, set runtime.scale_up_s"
        )
    because = "more do not fit" if fits < most else "the limit `concurrent`" if limit == fits < trials else "all trials"
    return Budget(
        concurrent=fits,
        reason=f"{trials} trials, {fits} at once ({because}): each takes {need}; the cluster has {has}",
    )


def _places(nodes: Sequence[Node], need: Need, trials: int) -> int:
    """Workers that find room; the drivers may all lie on any one node."""
    total = 0
    for node in nodes:
        room = int((node.cpus - trials * DRIVER_CPUS) / need.cpus + 1e-9)
        total += max(0, min(room, int(node.gpus / need.gpus + 1e-9)) if need.gpus else room)
    return total

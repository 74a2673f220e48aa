"""Room for processes on a Ray cluster: what there is, and what a cluster that adds nodes on demand can bring.

In: how many processes of which size work wants side by side.  Out: how many of them there is room for.

Clusters on demand (Ray's autoscaler, KubeRay) may have no node at all while nothing runs, and add none for work that
has checked that there is room for it. Hence the asking, where `runtime.scale_up_s` says that the cluster can grow.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from pipeline.config.schema import RuntimeConfig
from pipeline.runtime.session import Session, connected

_NOTICE_S = 2.0


def bundle(*, cpus: float, gpus: float = 0.0) -> dict[str, float]:
    """What a process takes, in Ray's words."""
    return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}


def scaled_up(session: Session, runtime: RuntimeConfig, wanted: Sequence[Mapping[str, float]]) -> Session:
    """The cluster once it has room for all of `wanted`, or as it is after `runtime.scale_up_s`.

    Every process is asked for on its own: a cluster that cannot hold all of them still adds what it can. The places are
    given back at once, and with this process.
    """
    if not runtime.scale_up_s:
        return session
    from ray.util import placement_group, remove_placement_group

    places = [placement_group([dict(one)]) for one in wanted]
    try:
        deadline = time.monotonic() + runtime.scale_up_s
        ready = sum(place.wait(_NOTICE_S / len(places)) for place in places)
        if ready < len(places):
            print(
                f"waiting for nodes: the Ray cluster has room for {ready} of {len(places)} processes, and "
                f"{runtime.scale_up_s:g} s (runtime.scale_up_s) to grow",
                file=sys.stderr,
                flush=True,
            )
        for place in places:
            place.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for place in places:
            remove_placement_group(place)
    return connected()


def fitting(wanted: int, *, session: Session, cpus: float, gpus: float = 0.0, spare_cpus: float = 0.0) -> int:
    """How many of `wanted` processes of this size the cluster can hold at once beside `spare_cpus`.

    Fewer than wanted is fine, none is not: Ray would wait for ever, so the arithmetic is shown instead.
    """
    room = int((session.cpus - spare_cpus) / cpus + 1e-9)
    if gpus:
        room = min(room, int(session.gpus / gpus + 1e-9))
    if room < 1:
        raise ValueError(
            f"the Ray cluster cannot hold one process of {cpus:g} CPU and {gpus:g} GPU beside {spare_cpus:g} CPU of "
            f"other work: it has {session.cpus:g} CPU and {session.gpus:g} GPU; ask for less a process, join a "
            "larger cluster with runtime.address, or, where the cluster adds nodes on demand, set runtime.scale_up_s"
        )
    return min(wanted, room)

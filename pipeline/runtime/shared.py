"""What the nodes of a cluster have in common: the run's folder, and a checkout each.

In: paths as the driver sees them.  Out: a `ValueError` before anything starts where another node does not see the same
folder; a worker's own copy of the checkout.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.config.root import project_root

_WAIT_S = 60.0


def own_root(root: Path) -> Path:
    """`root` where this node has it; otherwise the checkout that this worker imports (a node unpacks its own)."""
    return root if root.exists() else project_root()


def require_shared(folder: Path) -> None:
    """Every node must see, under the same path, a file that the driver has just written to `folder`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".shared-") as probe:
        sees = ray.remote(num_cpus=0, max_retries=0)(_exists)
        asked = {
            sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)).remote(
                probe.name
            ): node["NodeManagerAddress"]
            for node in nodes
        }
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_WAIT_S)
        if blind := [asked[task] for task in done if not ray.get(task)]:
            raise ValueError(
                f"{folder} is not shared: node {blind[0]} of the Ray cluster does not see what this one writes there; "
                f"set runs_dir (jobs.submit --storage) to a folder that all {len(nodes)} nodes mount at the same path"
            )


def _exists(path: str) -> bool:
    return Path(path).exists()

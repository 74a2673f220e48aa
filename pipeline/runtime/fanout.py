"""Independent pieces of work, side by side on Ray or one after the other in this process.

In: a function of one picklable item.  Out: `on_done(item, result)` for each, in the order in which they end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config.schema import RuntimeConfig
from pipeline.runtime.session import fitting, ray_session

Item = TypeVar("Item")
Output = TypeVar("Output")


def fan_out(
    function: Callable[[Item], Output],
    items: Sequence[Item],
    *,
    runtime: RuntimeConfig,
    root: Path,
    on_done: Callable[[Item, Output], None],
    verbose: bool = False,
) -> None:
    """Run `function` on every item; an error of one stops the rest.

    A task that dies with its node is retried; `function` must therefore be idempotent.
    """
    if not items:
        return
    if runtime.engine == "local":
        for item in items:
            on_done(item, function(item))
        return
    with ray_session(runtime, root=root, verbose=verbose) as session:
        # Not earlier: Ray reads the session's environment when it is imported.
        import ray

        fitting(1, session=session, cpus=runtime.cpus_per_worker, gpus=runtime.gpus_per_worker)
        remote: Any = ray.remote(_call).options(
            num_cpus=runtime.cpus_per_worker, num_gpus=runtime.gpus_per_worker, max_retries=runtime.max_failures
        )
        pending = {remote.remote(function, item, runtime.threads_per_worker): item for item in items}
        try:
            while pending:
                (done,), _ = ray.wait(list(pending), num_returns=1)
                on_done(pending.pop(done), _result(ray.get, done))
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


def _call(function: Callable[[Item], Output], item: Item, threads: int) -> Output:
    import torch  # by the worker alone: the driver may find everything done

    torch.set_num_threads(threads)
    return function(item)


def _result(get: Callable[[Any], Any], reference: Any) -> Any:
    from ray.exceptions import RayTaskError

    try:
        return get(reference)
    except RayTaskError as error:
        # The user's own mistakes keep their type and message; Ray wraps them in a remote traceback.
        if isinstance(error.cause, ValueError | OSError):
            raise error.cause from error
        raise

"""Independent pieces of work, side by side on Ray or one after the other in this process.

In: a function of one picklable item.  Out: `on_done(item, result)` for each, in the order in which they end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config.schema import RuntimeConfig
from pipeline.runtime.capacity import bundle, fitting, scaled_up
from pipeline.runtime.session import ray_session

Item = TypeVar("Item")
Output = TypeVar("Output")


def fan_out(
    function: Callable[[Item], Output],
    items: Sequence[Item],
    *,
    runtime: RuntimeConfig,
    root: Path,
    on_done: Callable[[Item, Output], None],
    on_failed: Callable[[Item, Exception], None] | None = None,
    verbose: bool = False,
) -> None:
    """Run `function` on every item; an error of one stops the rest, unless `on_failed` takes it.

    A task that dies with its node is retried; `function` must therefore be idempotent.
    """
    if not items:
        return
    if runtime.engine == "local":
        for item in items:
            _settle(item, partial(function, item), on_done, on_failed)
        return
    with ray_session(runtime, root=root, verbose=verbose) as session:
        # Not earlier: Ray reads the session's environment when it is imported.
        import ray

        # For one: tasks that wait are what a cluster grows by.
        session = scaled_up(session, runtime, [bundle(cpus=runtime.cpus_per_worker, gpus=runtime.gpus_per_worker)])
        fitting(1, session=session, cpus=runtime.cpus_per_worker, gpus=runtime.gpus_per_worker)
        remote: Any = ray.remote(_call).options(
            num_cpus=runtime.cpus_per_worker, num_gpus=runtime.gpus_per_worker, max_retries=runtime.max_failures
        )
        pending = {remote.remote(function, item, runtime.threads_per_worker): item for item in items}
        try:
            while pending:
                (done,), _ = ray.wait(list(pending), num_returns=1)
                _settle(pending.pop(done), partial(_result, ray.get, done), on_done, on_failed)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


def _settle(
    item: Item,
    result: Callable[[], Output],
    on_done: Callable[[Item, Output], None],
    on_failed: Callable[[Item, Exception], None] | None,
) -> None:
    try:
        output = result()
    except Exception as error:
        if on_failed is None:
            raise
        on_failed(item, error)
        return
    on_done(item, output)


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

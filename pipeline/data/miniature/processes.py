"""Pieces of work in fresh processes, which end with the job whatever ends it.

In: a function and its items.  Out: each item with its result, in the order in which they end.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")
Output = TypeVar("Output")


def in_processes(
    function: Callable[[Item], Output], items: Sequence[Item], processes: int
) -> Iterator[tuple[Item, Output]]:
    """Run `function` on every item, `processes` at a time; both must be picklable."""
    # Fresh interpreters: a fork of a process that already runs threads (torch, Arrow) can hang.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(processes, len(items)), mp_context=context, initializer=_end_with_parent)
    try:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        # An interrupted job waits neither for the pieces in work nor (as `with` would) for all that were planned.
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker of a killed job would wait for its next piece for ever: it holds both ends of its queue."""
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""Many small reads from a remote store, some of them at once.

In: a function and what to call it with.  Out: its results, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

InT = TypeVar("InT")
OutT = TypeVar("OutT")

REQUESTS = 16
"""Requests that a process has under way at most."""


def in_order(function: Callable[[InT], OutT], items: Iterable[InT], *, remote: bool) -> Iterator[OutT]:
    """`map`; where each call waits for a remote store, with several of them under way."""
    if not remote:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(REQUESTS) as pool:
        waiting: deque[Future[OutT]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > REQUESTS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

"""The batch of the next step is made while the current one trains.

In: a pure function of the step, and the steps.  Out: their results in order, whatever the number made ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Batch = TypeVar("Batch")


class Prefetcher(Generic[Batch]):
    """Calls `prepare` for each of `steps`, up to `depth` of them ahead, in one thread that ends with the block."""

    def __init__(self, prepare: Callable[[int], Batch], steps: range, *, depth: int = 1) -> None:
        """`depth` 0: no thread, each batch is made when it is taken."""
        self._prepare, self._steps, self._depth = prepare, iter(steps), depth
        self._ahead: deque[Future[Batch]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def take(self) -> Batch:
        """The next step's batch; an error of its preparation is raised here, not earlier."""
        if not self._depth:
            return self._prepare(next(self._steps))
        # The one taken now, and those that are made while it trains.
        while len(self._ahead) <= self._depth and (step := next(self._steps, None)) is not None:
            self._ahead.append(self._thread.submit(self._prepare, step))
        return self._ahead.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

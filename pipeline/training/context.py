"""What the loop knows of the world: ranks, means over them, and errors that end all of them together.

`LocalContext` is one process; `pipeline.runtime.ray_train` brings the one for Ray Train. Their parity is a test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


class TrainingError(ValueError):
    """Ends a training run on all workers alike; no restart mends it."""


class TrainContext(Protocol):
    """Process group of a training run."""

    @property
    def rank(self) -> int:
        """Index of this worker."""

    @property
    def world_size(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> torch.device:
        """Device of this worker's tensors."""

    def mean(self, value: Tensor) -> float:
        """Mean of a scalar over the workers."""

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Whether each flag is set on at least one worker."""

    def broadcast(self, value: int) -> int:
        """The value that worker 0 has."""

    def gather_text(self, text: str) -> list[str]:
        """Each worker's text, in the order of ranks."""

    def barrier(self) -> None:
        """Wait for all workers."""


class LocalContext:
    """A single process."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def mean(self, value: Tensor) -> float:
        """The value itself."""
        return float(value.detach())

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """The flags themselves."""
        return list(flags)

    def broadcast(self, value: int) -> int:
        """The value itself."""
        return value

    def gather_text(self, text: str) -> list[str]:
        """The text alone."""
        return [text]

    def barrier(self) -> None:
        """Nothing to wait for."""


def consensus(context: TrainContext, failure: Exception | None, flags: Sequence[bool] = ()) -> list[bool]:
    """`context.any(flags)`, unless a worker has failed: then every worker raises what all of them said.

    A worker that raised by itself would leave the others waiting for it in their next collective.
    """
    failed, *result = context.any([failure is not None, *flags])
    if failed:
        texts = context.gather_text("" if failure is None else one_line(failure))
        raise TrainingError("; ".join(dict.fromkeys(filter(None, texts)))) from failure
    return result


@contextmanager
def agreed(context: TrainContext) -> Iterator[None]:
    """What goes wrong in the block on one worker ends all of them.

    A block with collectives in it must fail before the first of them, or on all workers alike.
    """
    failure: Exception | None = None
    try:
        yield
    except (ValueError, OSError) as error:
        failure = error
    consensus(context, failure)


def one_line(error: BaseException) -> str:
    """An error's text without line breaks; its type's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__

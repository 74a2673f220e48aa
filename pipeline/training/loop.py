"""The training loop of both stages: the same for one process, for Ray workers and for any engine.

In: a task (the loss of a step's slots), an engine, a context.  Out: checkpoints and a metrics log; the same weights
however often the run was interrupted, because a step depends on (seed, step) and the state alone.

No worker raises by itself what the others do not know of: they agree before each step (`context.consensus`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimConfig
from pipeline.episodes.sampler import slot_parts, worker_slots
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.context import TrainContext, TrainingError, agreed, consensus
from pipeline.training.engine import Engine, learning_rate
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.prefetch import Prefetcher
from pipeline.training.run_files import RunFiles
from pipeline.training.stop import TrainingStopped


class TrainTask(Protocol):
    """What a stage optimises."""

    module: nn.Module
    """Owner of the trainable parameters."""
    slots_per_step: int
    """Items of a step over all workers (episodes, or pairs)."""
    queries_per_slot: int
    """Scored captions an item, for throughput."""

    def prepare(self, step: int, slots: range, device: torch.device) -> Any:
        """What `losses` needs of `slots` of `step`; a pure function that runs in a thread, ahead of its step."""

    def losses(self, module: nn.Module, batch: Any) -> Tensor:
        """Loss of each slot of a batch, in order; `module` is the task's own as the engine wraps it."""

    def describe(self, step: int, slot: int) -> str:
        """Coordinates of a slot, for whoever looks into a loss that is not finite."""


class TrainingDivergedError(TrainingError):
    """A loss or gradient that is not finite."""

    def __init__(self, step: int, loss: float, norm: float, culprits: str, kept_in: Path) -> None:
        named = f"not finite: the loss of {culprits}" if culprits else "the loss of every slot is finite"
        super().__init__(
            f"step {step}: loss {loss}, gradient norm {norm}; {named}; the checkpoint of the last finite state is kept "
            f"in {kept_in}; lower the learning rate or inspect these inputs"
        )


def train(
    task: TrainTask,
    engine: Engine,
    context: TrainContext,
    *,
    optim: OptimConfig,
    checkpoint_every: int,
    checkpoints: CheckpointStore,
    log: MetricsLog,
    micro_batches: int = 1,
    prefetched: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Tensor]:
    """Train to `optim.steps` updates from the newest checkpoint; returns the final consolidated state.

    `prefetched`: steps whose batches are made ahead. Once rank 0 sees `stop`, all save and raise `TrainingStopped`.
    """
    with agreed(context):
        slots = worker_slots(task.slots_per_step, context.rank, context.world_size)
        parts = slot_parts(slots, micro_batches)
    start = _resume(engine, checkpoints, log, context)

    prepare = partial(_prepare, task, parts, context.device)
    with (
        RunFiles(checkpoints, log, active=context.rank == 0) as files,
        Prefetcher(prepare, range(start, optim.steps), depth=prefetched) as ahead,
    ):
        for step in range(start, optim.steps):
            began = time.perf_counter()
            batches, stopping = _ready(ahead, files, context, stop)
            if stopping:
                if step > start and step % checkpoint_every:  # not saved yet
                    files.checkpoint(step, engine.state())
                with agreed(context):
                    files.finish()
                raise TrainingStopped(step, optim.steps)
            losses_N, norm = _update(task, engine, batches, rate := learning_rate(step, optim))
            mean_loss = context.mean(losses_N.mean())
            if not (mean_loss < float("inf") and norm < float("inf")):  # both are the same on all workers
                culprits = _culprits(task, step, slots, losses_N, context)
                raise TrainingDivergedError(step, mean_loss, norm, culprits, checkpoints.directory)
            speed = task.slots_per_step * task.queries_per_slot / (time.perf_counter() - began)
            record = {"step": step, "loss": mean_loss, "learning_rate": rate, "gradient_norm": norm}
            files.record({**record, "queries_per_s": speed, "time_s": time.time()})
            if (step + 1) % checkpoint_every == 0 or step + 1 == optim.steps:
                files.drain()
                files.checkpoint(step + 1, engine.state())
        with agreed(context):
            files.finish()
    return engine.state()


def _prepare(task: TrainTask, parts: list[range], device: torch.device, step: int) -> list[Any]:
    """All parts at once: they bound the activations' memory, beside which the batches' is small."""
    with torch.no_grad():
        return [task.prepare(step, part, device) for part in parts]


def _ready(
    ahead: Prefetcher[list[Any]], files: RunFiles, context: TrainContext, stop: Callable[[], bool]
) -> tuple[list[Any], bool]:
    """The next step's batches, and whether to stop instead; what failed on any worker so far ends all of them here."""
    batches: list[Any] = []
    failure: Exception | None = None
    try:
        files.check()
        batches = ahead.take()
    except (ValueError, OSError) as error:
        failure = error
    (stopping,) = consensus(context, failure, [context.rank == 0 and stop()])
    return batches, stopping


def _update(task: TrainTask, engine: Engine, batches: list[Any], rate: float) -> tuple[Tensor, float]:
    """One update; the loss of each of this worker's slots, and the gradient norm."""
    losses = []
    for batch in batches:
        losses_N = task.losses(engine.module, batch)
        engine.backward(losses_N.mean(), parts=len(batches))
        losses.append(losses_N.detach())
    return torch.cat(losses), engine.step(rate)


def _culprits(task: TrainTask, step: int, slots: range, losses_N: Tensor, context: TrainContext) -> str:
    """The slots of all workers whose own loss is not finite."""
    own = [task.describe(step, slots[index]) for index in (~losses_N.isfinite()).nonzero().flatten().tolist()]
    return "; ".join(filter(None, context.gather_text("; ".join(own))))


def _resume(engine: Engine, checkpoints: CheckpointStore, log: MetricsLog, context: TrainContext) -> int:
    """Load the checkpoint that rank 0 found, and forget what lies behind it; returns the first step."""
    found: int | None = None
    with agreed(context):
        if context.rank == 0:
            checkpoints.tidy()
            found = checkpoints.newest()
            if found is None:
                # Those of another configuration would count as the newest ones, and ours as old.
                checkpoints.clear()
            log.truncate(found or 0)
    updates = context.broadcast(-1 if found is None else found)
    if updates < 0:
        return 0
    with agreed(context):
        checkpoint = checkpoints.load(updates)
    with agreed(context):
        engine.load_state(checkpoint.state, updates)
    return updates

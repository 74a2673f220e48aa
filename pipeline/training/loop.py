"""The training loop of both stages: the same for one process, for Ray workers and for any engine.

In: a task (the loss of a step's slots), an engine, a context.  Out: checkpoints and a metrics log; the same weights
however often the run was interrupted, because a step depends on (seed, step) and the state alone.
"""

from __future__ import annotations

import time
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimConfig
from pipeline.episodes.sampler import philox, slot_parts, worker_slots
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.context import TrainContext
from pipeline.training.engine import Engine, learning_rate
from pipeline.training.metrics_log import MetricsLog

_DROPOUT_STREAM = 3


class TrainTask(Protocol):
    """What a stage optimises."""

    module: nn.Module
    """Owner of the trainable parameters."""
    slots_per_step: int
    """Items of a step over all workers (episodes, or pairs)."""
    queries_per_slot: int
    """Scored captions an item, for throughput."""

    def loss(self, module: nn.Module, step: int, slots: range, device: torch.device) -> Tensor:
        """Mean loss of `slots` of `step`; `module` is the task's own as the engine wraps it."""


class TrainingDivergedError(RuntimeError):
    """A loss or gradient that is not finite."""


def train(
    task: TrainTask,
    engine: Engine,
    context: TrainContext,
    *,
    optim: OptimConfig,
    checkpoint_every: int,
    checkpoints: CheckpointStore,
    log: MetricsLog,
    seed: int,
    micro_batches: int = 1,
) -> dict[str, Tensor]:
    """Train to `optim.steps` updates from the newest checkpoint; returns the final consolidated state."""
    parts = slot_parts(worker_slots(task.slots_per_step, context.rank, context.world_size), micro_batches)
    start = _resume(engine, checkpoints, log, context)
    state: dict[str, Tensor] | None = None
    for step in range(start, optim.steps):
        began = time.perf_counter()
        # Dropout masks belong to (seed, step, rank), not to how the process got here.
        torch.manual_seed(int(philox(seed, _DROPOUT_STREAM, step, context.rank).integers(2**63 - 1)))
        losses = []
        for slots in parts:
            loss = task.loss(engine.module, step, slots, context.device)
            engine.backward(loss, parts=len(parts))
            losses.append(loss.detach())
        rate = learning_rate(step, optim)
        norm = engine.step(rate)
        mean_loss = context.mean(torch.stack(losses).mean())
        if not (mean_loss < float("inf") and norm < float("inf")):
            raise TrainingDivergedError(
                f"step {step}: loss {mean_loss}, gradient norm {norm}; the checkpoint of the last finite state is kept "
                f"in {checkpoints.directory}; lower the learning rate or inspect this step's inputs (seed {seed})"
            )
        if context.rank == 0:
            seconds = time.perf_counter() - began
            queries = task.slots_per_step * task.queries_per_slot
            record = {"step": step, "loss": mean_loss, "learning_rate": rate, "gradient_norm": norm}
            log.append({**record, "queries_per_s": queries / seconds, "time_s": time.time()})
        if (step + 1) % checkpoint_every == 0 or step + 1 == optim.steps:
            state = engine.state()
            if context.rank == 0:
                checkpoints.save(step + 1, state)
            context.barrier()
    return engine.state() if state is None else state


def _resume(engine: Engine, checkpoints: CheckpointStore, log: MetricsLog, context: TrainContext) -> int:
    checkpoint = checkpoints.latest()
    start = 0
    if checkpoint is not None:
        engine.load_state(checkpoint.state, checkpoint.updates)
        start = checkpoint.updates
    context.barrier()
    if context.rank == 0:
        if checkpoint is None:
            # Those of another configuration would count as the newest ones, and ours as old.
            checkpoints.clear()
        log.truncate(start)
    return start

"""Training stages on Ray Train, or in this process: one call, two carriers.

In: a stage's name and the configuration.  Out: the stage's files, written by the worker of rank 0.

Workers write checkpoints and metrics to the run's folder themselves (it must be shared between nodes); this process
follows the metrics file for progress. So no step waits for `ray.train.report`, and a killed driver loses nothing: the
same command finds the newest checkpoint, on any number of workers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.schema import ExperimentConfig, OptimConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.runtime.capacity import bundle, fitting, scaled_up
from pipeline.runtime.session import Session, ray_session
from pipeline.runtime.shared import own_root, require_shared
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.context import LocalContext, TrainContext, TrainingError
from pipeline.training.engine import Engine, LocalEngine
from pipeline.training.identity import StageName
from pipeline.training.metrics_log import METRICS, MetricsFollower, Record
from pipeline.training.stages import CHECKPOINTS, EngineFactory, LoadLLM, run_stage
from pipeline.training.stop import STOP, TrainingStopped, stop_on_sigterm

OnRecord = Callable[[Record], None]
Outcome = dict[str, Any]
"""How a worker ended, if not by finishing: `error`, or `stopped` after so many updates."""
_POLL_S = 0.25


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """What a training worker needs to know."""

    stage: StageName
    """Which stage."""
    config: ExperimentConfig
    """The resolved configuration."""
    root: Path
    """The project's root, as the driver sees it."""
    run_dir: Path
    """Folder of the run, shared by all nodes."""
    fingerprint: str
    """Identity of the stage's result; checkpoints of another one are not resumed."""


class DistributedContext:
    """A worker of a `torch.distributed` group."""

    def __init__(self, device: torch.device) -> None:
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        self.device = device

    def mean(self, value: Tensor) -> float:
        """Mean over the workers, by an all-reduce."""
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return float(total) / self.world_size

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Flags that are set on at least one worker, by one all-reduce."""
        values = torch.tensor(list(flags), dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        return [bool(value) for value in values.tolist()]

    def broadcast(self, value: int) -> int:
        """Worker 0's value."""
        tensor = torch.tensor([value], dtype=torch.int64, device=self.device)
        torch.distributed.broadcast(tensor, src=0)
        return int(tensor)

    def gather_text(self, text: str) -> list[str]:
        """Texts of all workers, as bytes padded to the longest."""
        encoded = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        own = torch.tensor([len(encoded)], dtype=torch.int64, device=self.device)
        lengths = [torch.zeros_like(own) for _ in range(self.world_size)]
        torch.distributed.all_gather(lengths, own)
        padded = encoded.new_zeros(max(int(length) for length in lengths) + 1)
        padded[: len(encoded)] = encoded
        gathered = [torch.zeros_like(padded) for _ in range(self.world_size)]
        torch.distributed.all_gather(gathered, padded)
        return [
            bytes(values[: int(length)].tolist()).decode() for values, length in zip(gathered, lengths, strict=True)
        ]

    def barrier(self) -> None:
        """Wait for all workers."""
        torch.distributed.barrier()


def train_stage(
    job: StageJob, *, on_record: OnRecord, on_warning: Callable[[str], None], verbose: bool = False
) -> None:
    """Run a training stage to its end; `on_record` sees every step's metrics once.

    After SIGTERM it ends early, by `TrainingStopped`, with its state saved.
    """
    stage_dir = job.run_dir / job.stage
    store = CheckpointStore(stage_dir / CHECKPOINTS, fingerprint=job.fingerprint)
    if store.newest(on_damaged=on_warning) is None:
        # Nothing will be resumed: the metrics on disk are another configuration's.
        (stage_dir / METRICS).unlink(missing_ok=True)
    with _following(stage_dir / METRICS, on_record):
        if job.config.runtime.engine == "local":
            with stop_on_sigterm(stage_dir / STOP):
                _run(job, LocalContext(), LocalEngine)
        else:
            with ray_session(job.config.runtime, root=job.root, verbose=verbose) as session:
                _train_on_ray(job, session)


def _train_on_ray(job: StageJob, session: Session) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    runtime = job.config.runtime
    resources = bundle(cpus=runtime.cpus_per_worker, gpus=runtime.gpus_per_worker)
    session = scaled_up(session, runtime, [resources] * runtime.workers)
    require_shared(job.run_dir)
    workers = fitting(runtime.workers, session=session, cpus=runtime.cpus_per_worker, gpus=runtime.gpus_per_worker)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=bool(runtime.gpus_per_worker),
            resources_per_worker=resources,
            placement_strategy=runtime.placement.upper(),
        ),
        torch_config=TorchConfig(backend="nccl" if runtime.gpus_per_worker else "gloo"),
        run_config=RunConfig(
            name=job.stage,
            storage_path=str(job.run_dir / "ray"),
            failure_config=FailureConfig(max_failures=runtime.max_failures, controller_failure_limit=2),
        ),
    )
    try:
        with stop_on_sigterm(job.run_dir / job.stage / STOP):
            _raise_outcome(trainer.fit().return_value or {})
    except TrainingFailedError as error:
        raise RuntimeError(
            f"{job.stage}: training failed after {runtime.max_failures} restarts ({_last_line(error)}); "
            "the last checkpoint is kept, the same command continues from it"
        ) from error


def _raise_outcome(outcome: Outcome) -> None:
    if "error" in outcome:
        raise TrainingError(outcome["error"])
    if "stopped" in outcome:
        raise TrainingStopped(outcome["stopped"], outcome["steps"])


def _worker(settings: dict[str, Any]) -> Outcome:
    """Body of a Ray Train worker. What no restart would mend is returned: all workers have agreed on it.

    What only one of them raises is left to Ray, which ends the others too and starts all of them again.
    """
    import ray.train.torch

    from pipeline.runtime.deepspeed_engine import DeepSpeedEngine
    from pipeline.runtime.partitioned_llm import PartitionedLLM

    job: StageJob = settings["job"]
    job = replace(job, root=own_root(job.root))
    runtime = job.config.runtime
    torch.set_num_threads(runtime.threads_per_worker)

    def engine(module: nn.Module, optim: OptimConfig) -> Engine:
        return DeepSpeedEngine(
            module, optim, zero_stage=runtime.zero_stage, offload_optimizer=runtime.offload_optimizer
        )

    try:
        load_llm = PartitionedLLM if runtime.zero_stage == 3 else FrozenLLM
        _run(job, DistributedContext(ray.train.torch.get_device()), engine, load_llm)
    except TrainingError as error:
        return {"error": str(error)}
    except TrainingStopped as stopped:
        return {"stopped": stopped.updates, "steps": stopped.steps}
    return {}


def _run(job: StageJob, context: TrainContext, engine: EngineFactory, load_llm: LoadLLM = FrozenLLM) -> None:
    run_stage(
        job.stage,
        job.config,
        job.root,
        job.run_dir,
        context,
        engine,
        load_llm=load_llm,
        stage_fingerprint=job.fingerprint,
    )


@contextmanager
def _following(path: Path, on_record: OnRecord) -> Iterator[None]:
    """Hand the log's records to `on_record` from a thread while the block runs, each step once."""
    stop = threading.Event()
    failures: list[Exception] = []

    def follow() -> None:
        follower = MetricsFollower(path)
        while True:
            last_round = stop.is_set()
            for record in follower.poll():
                on_record(record)
            if last_round:
                return
            stop.wait(_POLL_S)

    def guarded() -> None:
        try:
            follow()
        except Exception as error:  # noqa: BLE001 - handed to the caller below
            failures.append(error)

    thread = threading.Thread(target=guarded, name="metrics-follower", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

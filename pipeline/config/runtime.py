"""The sections of execution: Ray, the training engine, and MLflow.

In: plain values.  Out: `RuntimeConfig` and `TrackingConfig`, checked when they are built.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from pipeline.config.types import STRICT, NonNegativeFloat, NonNegativeInt


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RuntimeConfig:
    """Ray and the training engine."""

    engine: Literal["deepspeed", "local"] = "deepspeed"
    """`local`: plain torch in this process, no Ray."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: 0 spreads nothing, the fastest while what is trained is small; 1 spreads the optimiser's
    state over the workers, 2 the gradients too, 3 the frozen LLM as well. One process has nothing to spread:
    `engine=local` is the same for 0, 1 and 2, and refuses 3."""
    offload_optimizer: bool = False
    """Keep the optimiser's state in host memory and update there (`engine=deepspeed`, `zero_stage` 1 to 3)."""
    workers: PositiveInt = 2
    """Training workers; fewer are started where the cluster has fewer CPUs (GPUs)."""
    cpus_per_worker: PositiveFloat = 0.9
    """CPUs reserved by a worker."""
    gpus_per_worker: NonNegativeFloat = 0.0
    """GPUs reserved by a worker."""
    threads_per_worker: PositiveInt = 1
    """BLAS and torch threads in every worker or actor process."""
    address: str | None = None
    """Ray cluster to join; None: a private local one (inside a Ray job: the job's cluster)."""
    scale_up_s: NonNegativeFloat = 0.0
    """Seconds that a cluster which adds nodes on demand (Ray's autoscaler, KubeRay) has to make room for what is wanted
    at once; then work begins with what there is. 0: with what there is now."""
    placement: Literal["pack", "spread"] = "pack"
    """`pack`: training workers on as few nodes as hold them, next to each other; `spread`: on as many as there are."""
    max_failures: NonNegativeInt = 3
    """Restarts of a training worker group before the run fails."""
    mirror: str | None = None
    """Folder of an object store (`s3://bucket/semi`, `gs://`, `file://`) that a run's folder is fetched from where this
    machine does not have it, and kept in while a job works: for disks that do not last. Credentials come from the
    environment. None: the disk is all there is."""

    @model_validator(mode="after")
    def _mirror_is_a_uri_without_secrets(self) -> RuntimeConfig:
        if self.mirror is None:
            return self
        parts = urlsplit(self.mirror)
        if not parts.scheme or "@" in parts.netloc:
            shown = f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}" if parts.scheme else self.mirror
            raise ValueError(
                f"mirror must be a URI without credentials, such as s3://bucket/semi (they come from the environment), "
                f"got {shown!r}"
            )
        return self

    @model_validator(mode="after")
    def _engine_serves_it(self) -> RuntimeConfig:
        if self.engine == "local" and (self.zero_stage == 3 or self.offload_optimizer):
            asked = "offload_optimizer=True" if self.offload_optimizer else "zero_stage=3"
            raise ValueError(f"engine='local' serves no {asked}: set engine='deepspeed', or leave {asked} out")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError(
                "offload_optimizer=True needs zero_stage 1, 2 or 3, got 0: raise zero_stage or switch it off"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrackingConfig:
    """MLflow."""

    enabled: bool = True
    """False: nothing is logged."""
    uri: str | None = None
    """Tracking server or store; None: SQLite in `<runs_dir>/mlflow.db`."""
    experiment: str = "semi"
    """MLflow experiment."""

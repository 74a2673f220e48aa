"""Meta-training runs of the smoke preset that share embeddings and projector, each to be disturbed in its own way."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.training.metrics_log import MetricsLog
from tests.drivers import Driver, start_driver

_REMINDER = re.compile(r"^meta_train +[\d.]+ s  \d+ of \d+ steps.*\n", re.MULTILINE)

WORKER = "RayTrainWorker"
"""What Ray calls a training worker."""


def on_ray(workers: int) -> tuple[str, ...]:
    """Options for DeepSpeed on that many workers."""
    return ("--set", "runtime.engine=deepspeed", "--set", f"runtime.workers={workers}")


@dataclass(kw_only=True)
class SmokeRuns:
    """A folder of runs."""

    folder: Path
    steps: int
    checkpoint_every: int
    drivers: list[Driver] = field(default_factory=list)

    def prepare(self) -> None:
        """What every run of `jobs.meta_train` reads."""
        for job in ("prepare_miniature", "extract_embeddings", "pretrain_projector"):
            self._start(job, "inputs").finish()

    def start(self, name: str, *options: str) -> Driver:
        """Begin run `name` of `jobs.meta_train`, or continue it."""
        for stage in ("embeddings", "pretrain_projector"):
            target = self.folder / name / stage
            if not target.exists():
                shutil.copytree(self.folder / "inputs" / stage, target, copy_function=os.link)
        return self._start("meta_train", name, *options)

    def steps_done(self, name: str) -> int:
        """Lines of a run's metrics."""
        log = self.folder / name / "meta_train" / "metrics.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def losses(self, name: str) -> list[float]:
        """One a step, each step once and in order."""
        records = MetricsLog(self.folder / name / "meta_train" / "metrics.jsonl").read()
        assert [record["step"] for record in records] == list(range(self.steps))
        return [record["loss"] for record in records]

    def weights(self, name: str) -> bytes:
        """The file that a finished run leaves."""
        return (self.folder / name / "meta_train" / "weights.safetensors").read_bytes()

    def checkpoints(self, name: str) -> list[int]:
        """Updates of the checkpoints on disk."""
        folder = self.folder / name / "meta_train" / "checkpoints"
        return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))

    def said(self, name: str) -> str:
        """All that a run's drivers have printed, but for the line a minute that tells how far they are."""
        return _REMINDER.sub("", (self.folder / f"{name}.log").read_text())

    def end(self) -> None:
        """Leave nothing running, whatever failed."""
        for driver in self.drivers:
            driver.end()

    def _start(self, job: str, name: str, *options: str) -> Driver:
        settings = {
            "runs_dir": self.folder,
            "meta.optim.steps": self.steps,
            "meta.checkpoint_every": self.checkpoint_every,
        }
        arguments = ["--preset", "smoke", "--name", name]
        arguments += [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
        log = self.folder / f"{name}.log"
        self.drivers.append(start_driver(job, [*arguments, *options], log=log, marker=self.folder))
        return self.drivers[-1]

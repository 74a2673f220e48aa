"""Folders like a run's that share embeddings, and a pre-trained projector where they may, with other runs.

In: a configuration and the run that holds the embeddings.  Out: trained stages below a folder of their own. What is
finished is found again. Trials of a sweep and variants of an ablation are such runs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pipeline.config.artifacts import StageDir
from pipeline.config.schema import ExperimentConfig
from pipeline.evaluation.results import Result
from pipeline.runtime.identities import Identities
from pipeline.training.identity import StageName

PRETRAINED = "pretrained"


def pretrained_dir(directory: Path, identity: str) -> Path:
    """A folder like a run's, below `directory` of a run, with a pre-trained projector that linked runs share."""
    folder = directory / PRETRAINED / identity
    folder.mkdir(parents=True, exist_ok=True)
    link(folder / "embeddings", directory.parent / "embeddings")
    return folder


def link(path: Path, target: Path) -> None:
    """A relative symlink, so that the runs' folder can be moved; one that leads elsewhere is replaced."""
    wanted = os.path.relpath(target, path.parent)
    if path.is_symlink():
        if os.readlink(path) == wanted:  # noqa: PTH115 - as text
            return
        path.unlink()
    path.symlink_to(wanted)


def train_linked(name: StageName, config: ExperimentConfig, root: Path, folder: Path, identity: str) -> None:
    """Train a stage below `folder` unless that is done; an attempt that was stopped is continued."""
    from pipeline.runtime.ray_train import StageJob, train_stage
    from pipeline.training.stages import CHECKPOINTS

    stage = StageDir(folder / name)
    if stage.is_complete(identity):
        return
    stage.begin()
    warnings: list[str] = []
    job = StageJob(stage=name, config=config, root=root, run_dir=folder, fingerprint=identity)
    last: dict[str, Any] = {}
    train_stage(job, on_record=last.update, on_warning=warnings.append)
    # What the run is scored with is kept, not the way there.
    shutil.rmtree(folder / name / CHECKPOINTS, ignore_errors=True)
    stage.commit(identity, {"loss": last.get("loss"), "warnings": warnings, "seconds": 0.0, "peak_rss_bytes": 0})


def score_linked(config: ExperimentConfig, root: Path, folder: Path, wanted: Identities) -> list[Result]:
    """Integrate and score every cell of what the configuration evaluates on, in this process."""
    from pipeline.runtime.integration import adapter_cells, make_adapter
    from pipeline.runtime.scoring import method_cells, score_cell

    for adapter in adapter_cells(config, root, folder, wanted.integrate):
        make_adapter(adapter)
    return [result for cell in method_cells(config, root, folder, wanted.evaluate) for result in score_cell(cell)]

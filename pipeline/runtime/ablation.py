"""One variant of an ablation: meta-trained on the run's embeddings, integrated, scored.

In: a `VariantJob`; the run's embeddings and the pre-trained projectors.  Out: `<run>/ablations/variants/<variant>`, a
folder like a run's. What is finished is found again, so a variant that died with its process goes on where it was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.artifacts import StageDir
from pipeline.config.schema import ExperimentConfig
from pipeline.config.variants import Variant
from pipeline.evaluation.results import Result, load_results, save_results
from pipeline.runtime.identities import Identities, identities
from pipeline.runtime.linked_run import link, pretrained_dir, score_linked, train_linked
from pipeline.runtime.shared import own_root

FOLDER = "ablations"
_SCORES = "evaluate"


@dataclass(frozen=True, kw_only=True)
class VariantJob:
    """A variant and what is needed to make it anywhere."""

    variant: Variant
    """What is trained."""
    root: Path
    """The project's root."""
    run_dir: Path
    """Folder of the run that has the embeddings, shared by all nodes."""
    config: ExperimentConfig
    """The variant's configuration, for one process."""
    wanted: Identities
    """What identifies the variant's stages."""
    pretrained: Path
    """The run, or a folder like it, whose projector this variant starts from."""

    @property
    def folder(self) -> Path:
        """Folder of the variant."""
        return self.run_dir / FOLDER / "variants" / self.variant.key

    @property
    def scores_dir(self) -> Path:
        """Folder of the variant's scores."""
        return self.folder / _SCORES

    def is_done(self) -> bool:
        """Whether the variant's scores are there."""
        return StageDir(self.scores_dir).is_complete(self.wanted.evaluate)

    def results(self) -> list[Result]:
        """Scores of a finished variant."""
        return load_results(self.scores_dir)

    def seconds(self) -> float:
        """What a finished variant took in its last attempt."""
        return float(StageDir(self.scores_dir).info()["seconds"])


def variant_job(variant: Variant, config: ExperimentConfig, root: Path, run_dir: Path) -> VariantJob:
    """The work of a variant of `config`, whose run has the embeddings."""
    # Variants run beside each other, each in one process.
    local = replace(config.runtime, engine="local", workers=1, zero_stage=0, offload_optimizer=False)
    own = replace(variant.config, runtime=local)
    wanted = identities(own, run_dir)
    shares = wanted.pretrain_projector == identities(config, run_dir).pretrain_projector
    pretrained = run_dir if shares else pretrained_dir(run_dir / FOLDER, wanted.pretrain_projector)
    return VariantJob(variant=variant, root=root, run_dir=run_dir, config=own, wanted=wanted, pretrained=pretrained)


def run_variant(job: VariantJob) -> float:
    """Train and score a variant in this process, or find that done; returns the seconds of this attempt."""
    began = time.perf_counter()
    config, root, folder, wanted = job.config, own_root(job.root), job.folder, job.wanted
    stage = StageDir(job.scores_dir)
    if stage.is_complete(wanted.evaluate):
        return job.seconds()
    stage.begin()
    link(folder / "embeddings", job.run_dir / "embeddings")
    link(folder / "pretrain_projector", job.pretrained / "pretrain_projector")
    train_linked("meta_train", config, root, folder, wanted.meta_train)
    save_results(job.scores_dir, score_linked(config, root, folder, wanted))
    seconds = time.perf_counter() - began
    stage.commit(wanted.evaluate, {"seconds": seconds})
    return seconds

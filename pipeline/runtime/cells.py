"""The coordinates of integration and evaluation, and what the tasks of one run share in a process.

In: the configuration and a run with trained stages.  Out: `Place`s: a (modality, encoder) at a support size; the models
and the shards of the run, loaded once a process; the support of each draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.adaptation.methods import Method, MethodContext, build_methods
from pipeline.adaptation.support import SupportSet, draw_supports, read_support
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import ExperimentConfig, MethodName, Shots
from pipeline.encoders.texts import text_embedder
from pipeline.evaluation.metrics import Embed
from pipeline.evaluation.protocol import Rows, draw_support
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.requirements import split_sizes
from pipeline.training.sources import SplitRows, open_splits
from pipeline.training.stages import load_projector, load_semi


@dataclass(frozen=True, kw_only=True)
class Place:
    """A (modality, encoder) at a support size, and what work there needs to be done anywhere."""

    config: ExperimentConfig
    """The resolved configuration."""
    root: Path
    """The project's root."""
    run_dir: Path
    """Folder of the run, shared by all nodes."""
    fingerprint: str
    """Identity of the stage's result; finished work of another one is not reused."""
    dataset: str
    """Modality that nobody trained on."""
    encoder: str
    """Its encoder."""
    encoder_number: int
    """Place of the encoder in the modality's list."""
    shots: Shots
    """K, or all pairs."""

    @property
    def name(self) -> str:
        """Path of the outputs below a stage's folder."""
        return f"{self.dataset}/{self.encoder}/shots-{self.shots}"


def places(config: ExperimentConfig, root: Path, run_dir: Path, stage_fingerprint: str) -> list[Place]:
    """All places of a configuration; a support size above the pairs that a modality has is left out there.

    Raises `ValueError` where that leaves a modality without a size, or where it has no test rows.
    """
    found = []
    for dataset in config.datasets_of(config.evaluate.on):
        # Of all encoders: the models' processes open them all.
        sizes = [split_sizes(config, run_dir, dataset, encoder) for encoder in dataset.encoders]
        for number, encoder in enumerate(dataset.encoders[: config.integrate.encoders]):
            shots = _possible(config.integrate.shots, sizes[number].get("train", 0), dataset.name)
            if not sizes[number].get("test", 0):
                raise ValueError(f"{dataset.name}: the test split has no rows; mark some with split `test`")
            found += [
                Place(
                    config=config,
                    root=root,
                    run_dir=run_dir,
                    fingerprint=stage_fingerprint,
                    dataset=dataset.name,
                    encoder=encoder.name,
                    encoder_number=number,
                    shots=size,
                )
                for size in shots
            ]
    if not found:
        raise ValueError(
            f"no dataset plays the role {config.evaluate.on!r}: give one that role"
            + (", or name a high-resource modality in `validation`" if config.evaluate.on == "validation" else "")
        )
    return found


def _possible(wanted: Sequence[Shots], pairs: int, dataset: str) -> list[Shots]:
    possible = [shots for shots in wanted if shots == "full" or shots <= pairs]
    if pairs < 1 or not possible:
        asked = ", ".join(map(str, wanted))
        raise ValueError(
            f"{dataset}: {asked} shots asked for, but its train split has {pairs} rows; "
            f"lower integrate.shots to at most {pairs}, or provide more pairs"
        )
    return possible


@dataclass(frozen=True, kw_only=True, eq=False)
class RunModels:
    """What the tasks of one run share in a process."""

    llm: FrozenLLM
    """The frozen LLM."""
    methods: dict[MethodName, Method]
    """The configured methods."""
    splits: dict[tuple[str, str, str], SplitRows]
    """By split, modality and encoder."""
    embed_texts: Embed
    """The run's text encoder."""

    def rows(self, split: str, place: Place) -> SplitRows:
        """One split of a place."""
        return self.splits[split, place.dataset, place.encoder]


def run_models(place: Place) -> RunModels:
    """Loaded at the first call of a process."""
    return _run_models(place.config, place.root, place.run_dir, place.fingerprint)


@lru_cache(maxsize=1)
def _run_models(config: ExperimentConfig, root: Path, run_dir: Path, _identity: str) -> RunModels:
    llm = FrozenLLM(config.llm, root)
    if llm.model.device.type == "cpu":
        keep_freed_memory()  # gradient steps on supports are training too

    def training_supports(shots: int, seed: int) -> list[SupportSet]:
        return draw_supports(_training_rows(config, root, run_dir), shots, seed)

    methods = build_methods(
        MethodContext(
            config=config,
            llm=llm,
            pretrained=load_projector(config, llm, run_dir).eval(),
            semi=load_semi(config, llm, run_dir),
            training_supports=training_supports,
        )
    )
    splits = {
        (rows.split, rows.modality, rows.encoder): rows
        for rows in open_splits(config, root, run_dir, role=config.evaluate.on, splits=("train", "test"))
    }
    return RunModels(llm=llm, methods=methods, splits=splits, embed_texts=text_embedder(config.text_encoder, root))


@lru_cache(maxsize=1)
def _training_rows(config: ExperimentConfig, root: Path, run_dir: Path) -> list[SplitRows]:
    """What meta-training read; opened for the controls that read it again."""
    return open_splits(config, root, run_dir, role="train", splits=("train",), stage="meta")


def all_positions(rows: SplitRows) -> Rows:
    """Every position of a split."""
    return np.arange(len(rows), dtype=np.int64)


def read_draw(models: RunModels, place: Place, draw: int) -> SupportSet:
    """The support of a draw; the same rows for every method and encoder."""
    rows = models.rows("train", place)
    positions = all_positions(rows)
    shots = len(positions) if place.shots == "full" else place.shots
    return read_support(rows, draw_support(positions, shots, place.config.seed, draw, dataset=place.dataset))


def fit_seed(config: ExperimentConfig, draw: int, seed: int) -> int:
    """The seed that a method is given; seed 0 is that of the adapters that `integrate` makes."""
    return int(fingerprint((config.seed, draw, seed)), 16) >> 1

"""One cell of the protocol: a held-out (modality, encoder), a number of shots, a draw.

In: the configuration and a run with trained stages.  Out: the adapter artifact of `integrate`, or the scored captions
of every configured method. Cells are independent, so they fan out; a finished one is kept and found again.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.adaptation.artifact import AdapterCard, check_fits, load_adapter, save_adapter
from pipeline.adaptation.captioner import Captioner, ProjectorCaptioner
from pipeline.adaptation.finetune import choose_tuned
from pipeline.adaptation.methods import Method, MethodContext, SemiMethod, build_methods, count_parameters
from pipeline.adaptation.support import SupportSet, draw_supports, read_support
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import ExperimentConfig, MethodName
from pipeline.evaluation.attributes import vocabulary_of
from pipeline.evaluation.protocol import draw_support, test_rows
from pipeline.evaluation.results import Result, load_results, save_results, score_captions
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.sources import SplitRows, open_splits
from pipeline.training.stages import load_projector, load_semi


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Coordinates of a piece of work, and what it needs to be computed anywhere."""

    config: ExperimentConfig
    """The resolved configuration."""
    root: Path
    """The project's root."""
    run_dir: Path
    """Folder of the run, shared by all nodes."""
    fingerprint: str
    """Identity of the stage's result; finished cells of another one are not reused."""
    dataset: str
    """Held-out modality."""
    encoder: str
    """Its encoder."""
    shots: int
    """K."""
    draw: int
    """Number of the support draw."""

    @property
    def name(self) -> str:
        """Folder name of the cell's output."""
        return f"{self.dataset}/{self.encoder}/shots-{self.shots}/draw-{self.draw}"


def cells(config: ExperimentConfig, root: Path, run_dir: Path, stage_fingerprint: str) -> list[Cell]:
    """All cells of a configuration."""
    return [
        Cell(
            config=config,
            root=root,
            run_dir=run_dir,
            fingerprint=stage_fingerprint,
            dataset=dataset.name,
            encoder=encoder.name,
            shots=shots,
            draw=draw,
        )
        for dataset in config.datasets_of(config.evaluate.on)
        for encoder in dataset.encoders[: config.integrate.encoders]
        for shots in config.integrate.shots
        for draw in range(config.integrate.draws)
    ]


def check_shots(config: ExperimentConfig, root: Path, run_dir: Path) -> None:
    """Raise before anything starts where a modality has fewer pairs than shots, or no test rows."""
    for rows in open_splits(config, root, run_dir, role=config.evaluate.on, splits=("train",)):
        draw_support(_positions(rows), max(config.integrate.shots), config.seed, 0, dataset=rows.modality)


def integrate_cell(cell: Cell) -> Path:
    """Make the adapter of a cell, or find it finished; returns its folder."""
    directory = cell.run_dir / "integrate" / cell.name
    identity = fingerprint((cell.fingerprint, cell.name))
    if _holds(directory, identity):
        return directory
    models = _models(cell.config, cell.root, cell.run_dir, cell.fingerprint)
    rows = models.rows("train", cell)
    support = _support(cell, rows)
    method = models.methods.get("semi")
    if not isinstance(method, SemiMethod):
        raise ValueError("evaluate.methods must contain 'semi' for the integrate stage")
    began = time.perf_counter()
    projector = method.project(support, _method_seed(cell))
    card = _card(cell, rows, support, projector, identity, seconds=time.perf_counter() - began)
    save_adapter(directory, projector, card)
    return directory


def _holds(directory: Path, identity: str) -> bool:
    try:
        return load_adapter(directory)[1].config_fingerprint == identity
    except ValueError:  # none there, or one of another format: it is made again
        return False


def evaluate_cell(cell: Cell) -> list[Result]:
    """Fit and score every configured method on a cell, or read the scores of a finished one."""
    directory = cell.run_dir / "evaluate" / "cells" / cell.name
    stamp = directory / f"complete-{cell.fingerprint}"
    if stamp.exists():
        return load_results(directory)
    shutil.rmtree(directory, ignore_errors=True)
    results = score_methods(cell, integrated=True)
    directory.mkdir(parents=True, exist_ok=True)
    save_results(directory, results)
    stamp.touch()
    return results


def score_methods(cell: Cell, *, integrated: bool = False) -> list[Result]:
    """Fit and score every configured method; SEMI is fitted too, unless its `integrated` adapter is to be read."""
    models = _models(cell.config, cell.root, cell.run_dir, cell.fingerprint)
    support = _support(cell, models.rows("train", cell))
    test = models.rows("test", cell)
    wanted = test_rows(_positions(test), cell.config.evaluate.test_samples, cell.config.seed, dataset=cell.dataset)
    embeddings, ids, references = test.embeddings(wanted), test.ids(wanted), test.captions(wanted)
    truths = test.attributes(wanted)
    # Values of all test rows, whichever of them are scored.
    vocabulary = vocabulary_of(test.attributes(_positions(test)))
    results = []
    captioner: Captioner
    for name, method in models.methods.items():
        began = time.perf_counter()
        if integrated and name == "semi":
            # Made by the stage before: reading it back is not what it cost.
            captioner, seconds = _integrated(cell, models.llm, support)
        else:
            captioner = method.fit(support, _method_seed(cell))
            seconds = time.perf_counter() - began
        results.append(
            score_captions(
                dataset=cell.dataset,
                encoder=cell.encoder,
                method=name,
                shots=cell.shots,
                draw=cell.draw,
                ids=ids,
                captions=captioner.caption(embeddings),
                references=references,
                truths=truths,
                vocabulary=vocabulary,
                trained_parameters=captioner.trained_parameters,
                deployed_parameters=captioner.deployed_parameters,
                seconds=seconds,
            )
        )
    return results


@dataclass(frozen=True, kw_only=True, eq=False)
class _Models:
    """What the cells of one run share in a process."""

    llm: FrozenLLM
    methods: dict[MethodName, Method]
    splits: dict[tuple[str, str, str], SplitRows]

    def rows(self, split: str, cell: Cell) -> SplitRows:
        return self.splits[split, cell.dataset, cell.encoder]


@lru_cache(maxsize=1)
def _models(config: ExperimentConfig, root: Path, run_dir: Path, _identity: str) -> _Models:
    llm = FrozenLLM(config.llm, root)

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
    return _Models(llm=llm, methods=methods, splits=splits)


@lru_cache(maxsize=1)
def _training_rows(config: ExperimentConfig, root: Path, run_dir: Path) -> list[SplitRows]:
    """What meta-training read; opened for the controls that read it again."""
    return open_splits(config, root, run_dir, role="train", splits=("train",), stage="meta")


def _positions(rows: SplitRows) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(len(rows), dtype=np.int64)


def _support(cell: Cell, rows: SplitRows) -> SupportSet:
    drawn = draw_support(_positions(rows), cell.shots, cell.config.seed, cell.draw, dataset=cell.dataset)
    return read_support(rows, drawn)


def _method_seed(cell: Cell) -> int:
    return int(fingerprint((cell.config.seed, cell.draw)), 16) >> 1


def _integrated(cell: Cell, llm: FrozenLLM, support: SupportSet) -> tuple[ProjectorCaptioner, float]:
    """The captioner that `integrate` made, and the seconds that it took."""
    projector, card = load_adapter(cell.run_dir / "integrate" / cell.name)
    check_fits(card, input_width=support.embeddings_KE.shape[1], llm_width=llm.width)
    if card.support_ids != support.ids:
        raise ValueError(
            f"the adapter of {cell.name} was made of other pairs than this configuration draws: run integrate again"
        )
    choose_tuned(projector, cell.config.integrate.finetune.tuned)
    trained = count_parameters(projector, trainable=True) if card.finetune_steps else 0
    captioner = ProjectorCaptioner(projector=projector.to(llm.model.device), llm=llm, trained_parameters=trained)
    return captioner, card.seconds


def _card(
    cell: Cell, rows: SplitRows, support: SupportSet, projector: Projector, identity: str, *, seconds: float
) -> AdapterCard:
    config = cell.config
    return AdapterCard(
        method="semi",
        hypernet=config.hypernet.kind,
        rank=min(config.hypernet.rank, support.shots),
        modality=cell.dataset,
        encoder={"name": cell.encoder, "fingerprint": rows.dataset.manifest.encoder.fingerprint},
        llm={"path": config.llm.path, "revision": config.llm.revision, "prompt": config.llm.prompt},
        input_width=projector.input_width,
        hidden_width=projector.linear_layers[0].out_features,
        llm_width=projector.llm_width,
        soft_tokens=projector.soft_tokens,
        finetune_steps=config.integrate.finetune.steps,
        seconds=seconds,
        support_ids=support.ids,
        seed=config.seed,
        draw=cell.draw,
        config_fingerprint=identity,
    )

"""Scores of one method at one support size: every draw and seed of it, kept one by one.

In: the configuration and a run with trained stages.  Out: `Result` rows below `<run>/<evaluate.folder>/cells`. Cells
are independent, so they fan out. Replicates whose gradient steps are made together form a group; a finished group is
found again, whatever ended the process.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from pipeline.adaptation.captioner import Captioner
from pipeline.adaptation.methods import fit_together
from pipeline.adaptation.support import SupportSet
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import ExperimentConfig, MethodName, Shots
from pipeline.evaluation.attributes import vocabulary_of
from pipeline.evaluation.metrics import ReferenceSet
from pipeline.evaluation.protocol import test_rows
from pipeline.evaluation.provenance import PeakRss
from pipeline.evaluation.results import Result, load_results, save_results, score_captions
from pipeline.runtime.cells import Place, RunModels, all_positions, fit_seed, places, read_draw, run_models
from pipeline.runtime.identities import Identities, identities
from pipeline.runtime.integration import AdapterCell, made_adapter


@dataclass(frozen=True, kw_only=True)
class MethodCell:
    """One method on one (modality, encoder) at one support size."""

    place: Place
    """Where: modality, encoder, support size."""
    method: MethodName
    """What is fitted."""

    @property
    def name(self) -> str:
        """Folder name of the cell's output."""
        return f"{self.place.name}/{self.method}"

    @property
    def directory(self) -> Path:
        """Folder of the cell's output."""
        return self.place.run_dir / self.place.config.evaluate.folder / "cells" / self.name


def method_cells(config: ExperimentConfig, root: Path, run_dir: Path, stage_fingerprint: str) -> list[MethodCell]:
    """All cells, in the order of the report."""
    return [
        MethodCell(place=place, method=method)
        for place in places(config, root, run_dir, stage_fingerprint)
        for method in config.evaluate.methods
        if config.evaluate.design.includes(method, place.shots, place.encoder_number)
    ]


def longest_first(cells: list[MethodCell]) -> list[MethodCell]:
    """The order to start them in: what trains on many pairs last would leave the other workers idle at the end."""
    return sorted(cells, key=lambda cell: -_pairs(cell.place.shots))


def score_cell(cell: MethodCell) -> list[Result]:
    """Fit and score every replicate of a cell, or read the scores of finished ones."""
    return [result for number, group in enumerate(_groups(cell)) for result in _kept(cell, number, group)]


def score_anew(cell: MethodCell) -> list[Result]:
    """Fit and score every replicate of a cell, and keep nothing."""
    return [result for group in _groups(cell) for result in _fit_and_score(cell, group)]


Group = list[tuple[int, int]]
"""The draws and seeds that are fitted together."""


def _groups(cell: MethodCell) -> list[Group]:
    config = cell.place.config
    replicates = config.evaluate.design.replicates(
        cell.place.shots,
        draws=config.integrate.draws,
        stochastic=run_models(cell.place).methods[cell.method].stochastic,
        encoder=cell.place.encoder_number,
    )
    size = config.evaluate.fits_together
    return [replicates[first : first + size] for first in range(0, len(replicates), size)]


def _kept(cell: MethodCell, number: int, group: Group) -> list[Result]:
    directory = cell.directory / f"group-{number}"
    # With the group's members: in other company the last digits of a fit differ.
    identity = fingerprint((_identities(cell.place.config, cell.place.run_dir).fits, group))
    stamp = directory / f"complete-{identity}"
    if stamp.exists():
        return load_results(directory)
    shutil.rmtree(directory, ignore_errors=True)
    results = _fit_and_score(cell, group)
    directory.mkdir(parents=True, exist_ok=True)
    save_results(directory, results)
    stamp.touch()
    return results


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    """What came of a fit, and its share of what the group cost."""

    captioner: Captioner
    seconds: float
    peak_bytes: int


def _fit(cell: MethodCell, group: Group, supports: dict[int, SupportSet]) -> dict[tuple[int, int], _Fitted]:
    """All fits of a group: adapters that `integrate` made, and the others together."""
    place, models = cell.place, run_models(cell.place)
    fitted: dict[tuple[int, int], _Fitted] = {}
    for draw, seed in group:
        made = _made(place, models, supports[draw], draw) if cell.method == "semi" and seed == 0 else None
        if made is not None:
            # Its own seconds: reading it back is not what it cost.
            fitted[draw, seed] = _Fitted(captioner=made[0], seconds=made[1], peak_bytes=0)
    left = [replicate for replicate in group if replicate not in fitted]
    if left:
        fits = [(supports[draw], fit_seed(place.config, draw, seed)) for draw, seed in left]
        with PeakRss(interval_s=0.1) as peak:
            before = peak.bytes
            began = time.perf_counter()
            captioners = fit_together(models.methods[cell.method], fits)
            seconds = (time.perf_counter() - began) / len(left)
        share = max(0, peak.bytes - before) // len(left)
        for replicate, captioner in zip(left, captioners, strict=True):
            fitted[replicate] = _Fitted(captioner=captioner, seconds=seconds, peak_bytes=share)
    return fitted


def _fit_and_score(cell: MethodCell, group: Group) -> list[Result]:
    place, test = cell.place, _test_set(cell.place)
    supports = {draw: read_draw(run_models(place), place, draw) for draw, _ in group}
    fitted = _fit(cell, group, supports)
    return [
        score_captions(
            dataset=place.dataset,
            encoder=place.encoder,
            method=cell.method,
            shots=None if place.shots == "full" else place.shots,
            draw=draw,
            seed=seed,
            pairs=supports[draw].shots,
            ids=test.ids,
            captions=fitted[draw, seed].captioner.caption(test.embeddings),
            references=test.references,
            truths=test.truths,
            vocabulary=test.vocabulary,
            trained_parameters=fitted[draw, seed].captioner.trained_parameters,
            deployed_parameters=fitted[draw, seed].captioner.deployed_parameters,
            seconds=fitted[draw, seed].seconds,
            peak_bytes=fitted[draw, seed].peak_bytes,
        )
        for draw, seed in group
    ]


def _made(place: Place, models: RunModels, support: SupportSet, draw: int) -> tuple[Captioner, float] | None:
    identity = _identities(place.config, place.run_dir).integrate
    return made_adapter(AdapterCell(place=place, draw=draw), models.llm, support, identity)


@lru_cache(maxsize=1)
def _identities(config: ExperimentConfig, run_dir: Path) -> Identities:
    return identities(config, run_dir)


@dataclass(frozen=True, kw_only=True, eq=False)
class _TestSet:
    """The test rows of one (modality, encoder)."""

    embeddings: Tensor
    ids: list[str]
    references: ReferenceSet
    truths: list[dict[str, str]]
    vocabulary: dict[str, frozenset[str]]


@lru_cache(maxsize=32)
def _test_set(place: Place) -> _TestSet:
    test = run_models(place).rows("test", place)
    rows = test_rows(all_positions(test), place.config.evaluate.test_samples, place.config.seed, dataset=place.dataset)
    return _TestSet(
        embeddings=test.embeddings(rows),
        ids=test.ids(rows),
        references=ReferenceSet(test.captions(rows), embed=run_models(place).embed_texts),
        truths=test.attributes(rows),
        # Values of all test rows, whichever of them are scored.
        vocabulary=vocabulary_of(test.attributes(all_positions(test))),
    )


def _pairs(shots: Shots) -> float:
    return float("inf") if shots == "full" else shots

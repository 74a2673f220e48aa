"""What the miniature suite is worth, printed and kept: `python -m jobs.prepare_miniature --report`.

In: a run whose signals are written.  Out: three tables on the terminal, and `suite_report.json` in the run's folder.
Embeddings that are missing are extracted first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from jobs import extract_embeddings
from jobs._cli import console, stage_progress
from jobs._run import Run
from pipeline.config.artifacts import write_text_atomic

if TYPE_CHECKING:
    # Reading and encoding the suite needs transformers and scikit-learn; writing it does not.
    from pipeline.models.miniature.report import Probe
    from pipeline.runtime.sanity import ScratchSanity

SUITE_REPORT = "suite_report.json"


def report(run: Run) -> None:
    """Measure, print and write the suite's sanity figures."""
    extract_embeddings.run(run)
    probes, steered, scratch = _probes(run), _steering(run), _scratch(run)
    figures = {
        "commit": str(run.commit),
        "seed": run.config.seed,
        "linear_probes": {f"{probe.modality}/{probe.encoder}": probe.by_attribute for probe in probes},
        "steering": steered,
        "scratch": {found.modality: asdict(found) for found in scratch},
        "mean": {
            "linear_probe": _mean([probe.mean for probe in probes]),
            "scratch_full": _mean([found.full for found in scratch]),
            "scratch_few": _mean([found.few for found in scratch]),
        },
    }
    path = run.directory / SUITE_REPORT
    write_text_atomic(path, json.dumps(figures, indent=1) + "\n")
    console.print(f"written to {path}", markup=False, soft_wrap=True)


def _probes(run: Run) -> list[Probe]:
    from pipeline.models.miniature.report import linear_probes

    probes = []
    with stage_progress("linear probes", total=_encoders(run), unit="encoders") as advance:
        for probe in linear_probes(run.config, run.root):
            probes.append(probe)
            advance(note=f"{probe.modality}, {probe.encoder}")
        advance(0, note=f"mean {_mean([probe.mean for probe in probes]):.3f}")
    table = Table("modality", "encoder", "width", "linear probe", "by attribute", title="What the embeddings tell")
    for probe in probes:
        by_attribute = "  ".join(f"{name} {score:.2f}" for name, score in probe.by_attribute.items())
        table.add_row(probe.modality, probe.encoder, str(probe.width), f"{probe.mean:.3f}", by_attribute)
    console.print(table)
    return probes


def _encoders(run: Run) -> int:
    return sum(len(dataset.encoders) for dataset in run.config.datasets if dataset.role != "text")


def _steering(run: Run) -> dict[str, float]:
    from pipeline.models.miniature.report import steering

    steered = steering(run.config, run.root)
    said = "  ".join(f"{domain} {score:.2f}" for domain, score in steered.items())
    console.print(f"values that the language model repeats when told: {said}")
    return steered


def _scratch(run: Run) -> list[ScratchSanity]:
    from pipeline.runtime.sanity import scratch_sanity, scratch_tasks

    tasks = scratch_tasks(run.config, run.root, run.directory)
    with stage_progress("projectors from scratch", total=len(tasks), unit="projectors") as advance:
        found = scratch_sanity(
            tasks,
            on_done=lambda task, score: advance(note=f"{task.modality}, {task.shots or 'all'} pairs: {score:.3f}"),
            verbose=run.verbose,
        )
    few = run.config.integrate.shots[0]
    title = "A projector from scratch: attribute accuracy"
    table = Table("modality", f"{few} pairs", "all pairs", "ratio", title=title)
    for row in found:
        table.add_row(row.modality, f"{row.few:.3f}", f"{row.full:.3f}", f"{row.ratio:.2f}")
    few_mean, full_mean = _mean([row.few for row in found]), _mean([row.full for row in found])
    table.add_section()
    table.add_row("mean", f"{few_mean:.3f}", f"{full_mean:.3f}", f"{few_mean / full_mean:.2f}")
    console.print(table)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

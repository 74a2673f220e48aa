"""One row a trained and scored method, and the two Parquet files that keep the rows.

In: the captions a method wrote for the test rows, with their references and true attributes.
Out: `Result` rows; on disk `results.parquet` (one row a result) and `samples.parquet` (one row a caption).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.evaluation.attributes import attribute_accuracy
from pipeline.evaluation.metrics import ReferenceSet

RESULTS_FORMAT = 3
"""Version of both files; fits that were kept in another one are made again."""
RESULTS_FILE = "results.parquet"
SAMPLES_FILE = "samples.parquet"

TEXT_METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor_exact_stem")
"""Metrics of a whole set of captions, x100."""
RETRIEVAL_METRICS = ("recall_at_1", "recall_at_5")
"""The same, where texts were embedded."""
_KEY = ("dataset", "encoder", "method", "shots", "draw", "seed")
_RESULTS_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in _KEY[:3]],
        *[(name, pa.int64()) for name in _KEY[3:]],
        ("pairs", pa.int64()),
        ("attribute_accuracy", pa.float64()),
        ("cider_d", pa.float64()),
        *[(name, pa.float64()) for name in (*TEXT_METRICS, *RETRIEVAL_METRICS)],
        ("trained_parameters", pa.int64()),
        ("deployed_parameters", pa.int64()),
        ("seconds", pa.float64()),
        ("peak_bytes", pa.int64()),
        ("per_attribute", pa.map_(pa.string(), pa.float64())),
    ]
)
_SAMPLES_SCHEMA = pa.schema(
    [
        ("result", pa.int64()),
        *[(name, pa.dictionary(pa.int32(), pa.string())) for name in _KEY[:3]],
        *[(name, pa.int64()) for name in _KEY[3:]],
        ("id", pa.string()),
        ("caption", pa.large_string()),
        ("reference", pa.large_string()),
        ("attribute_accuracy", pa.float64()),
        ("cider_d", pa.float64()),
    ]
)


def shots_label(shots: int | None) -> str:
    """How a support size is called."""
    return "full" if shots is None else str(shots)


def shots_order(shots: int | None) -> float:
    """Sorts support sizes; all pairs come last."""
    return math.inf if shots is None else shots


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleScores:
    """What a result says of each test sample, in the test set's order."""

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    references: tuple[str, ...]
    """The first reference of each sample, to show beside the caption."""
    attribute_accuracy: npt.NDArray[np.float64] | None
    """`[n]` in 0..1; None where the dataset has no attributes."""
    cider_d: npt.NDArray[np.float64]
    """`[n]`, x100."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """One method, integrated from one support draw of one dataset and encoder, scored on the test rows."""

    dataset: str
    encoder: str
    method: str
    shots: int | None
    """Support size; None: all pairs of the training split."""
    draw: int
    """Number of the support draw."""
    seed: int
    """Number of the fit's seed."""
    pairs: int
    """Pairs that were read."""
    attribute_accuracy: float | None
    """0..1; None where the dataset has no attributes."""
    cider_d: float
    """x100, as the metrics below."""
    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    meteor_exact_stem: float
    recall_at_1: float | None
    """None where no texts were embedded, as the one below."""
    recall_at_5: float | None
    trained_parameters: int
    """Parameters that gradient steps on the support changed."""
    deployed_parameters: int
    """Parameters that must be kept for this modality beside the frozen models."""
    seconds: float
    """Wall-clock from the support set to a method ready to caption."""
    peak_bytes: int
    """Memory that the fit added to its process at most; 0 where it reused what the process had."""
    per_attribute: dict[str, float]
    samples: SampleScores


def score_captions(
    *,
    dataset: str,
    encoder: str,
    method: str,
    shots: int | None,
    draw: int,
    seed: int,
    pairs: int,
    ids: Sequence[str],
    captions: Sequence[str],
    references: ReferenceSet | Sequence[Sequence[str]],
    truths: Sequence[Mapping[str, str]],
    vocabulary: Mapping[str, AbstractSet[str]],
    trained_parameters: int,
    deployed_parameters: int,
    seconds: float,
    peak_bytes: int,
) -> Result:
    """Score one method's captions; an empty `vocabulary` means a dataset without attributes."""
    if len(ids) != len(captions):
        raise ValueError(f"{dataset}: need one caption an id, got {len(captions)} for {len(ids)}")
    references = references if isinstance(references, ReferenceSet) else ReferenceSet(references)
    scores = references.score(captions)
    attributes = attribute_accuracy(captions, truths, vocabulary) if vocabulary else None
    return Result(
        dataset=dataset,
        encoder=encoder,
        method=method,
        shots=shots,
        draw=draw,
        seed=seed,
        pairs=pairs,
        attribute_accuracy=attributes.mean if attributes else None,
        cider_d=scores.cider_d,
        **{name: getattr(scores, name) for name in (*TEXT_METRICS, *RETRIEVAL_METRICS)},
        trained_parameters=trained_parameters,
        deployed_parameters=deployed_parameters,
        seconds=seconds,
        peak_bytes=peak_bytes,
        per_attribute=attributes.per_attribute if attributes else {},
        samples=SampleScores(
            ids=tuple(ids),
            captions=tuple(captions),
            references=tuple(texts[0] for texts in references.texts),
            attribute_accuracy=attributes.per_sample if attributes else None,
            cider_d=scores.cider_d_per_sample,
        ),
    )


def save_results(directory: Path, results: Sequence[Result]) -> None:
    """Write both Parquet files."""
    rows = [
        {name: getattr(result, name) for name in _RESULTS_SCHEMA.names}
        | {"per_attribute": list(result.per_attribute.items())}
        for result in results
    ]
    samples = pa.concat_tables(_sample_rows(number, result) for number, result in enumerate(results))
    pq.write_table(pa.Table.from_pylist(rows, schema=_RESULTS_SCHEMA), directory / RESULTS_FILE)
    pq.write_table(samples, directory / SAMPLES_FILE)


def load_results(directory: Path) -> list[Result]:
    """Read back what `save_results` wrote."""
    for name in (RESULTS_FILE, SAMPLES_FILE):
        if not (directory / name).is_file():
            raise ValueError(f"{directory / name} is missing; run `python -m jobs.evaluate` first")
    rows = pq.read_table(directory / RESULTS_FILE).to_pylist()
    samples = pq.read_table(directory / SAMPLES_FILE)
    # Rows of one result lie together, in the order of the results.
    counts = np.bincount(samples["result"].to_numpy(), minlength=len(rows))
    starts = np.concatenate([[0], np.cumsum(counts)])
    return [
        Result(
            **row | {"per_attribute": dict(row["per_attribute"])},
            samples=_samples_of(samples.slice(int(start), int(count))),
        )
        for row, start, count in zip(rows, starts[:-1], counts, strict=True)
    ]


def caption_table(results: Iterable[Result], samples: int) -> dict[str, list[Any]]:
    """Columns to compare methods with: the first `samples` test samples of every dataset, encoder and support size.

    From the first draw; the methods' captions of one sample lie below each other, what matters most to the left.
    """
    rows = [
        row | {"position": position}
        for result in results
        if result.draw == 0 and result.seed == 0
        for position, row in enumerate(_sample_rows(0, result).slice(0, samples).to_pylist())
    ]
    order = {key: place for place, key in enumerate(dict.fromkeys(_group(row) for row in rows))}
    rows.sort(key=lambda row: (order[_group(row)], row["position"]))  # stable: methods stay in the results' order
    shown = ("dataset", "reference", "method", "caption", "attribute_accuracy", "cider_d", "shots", "encoder", "id")
    digits = {"attribute_accuracy": 3, "cider_d": 1}
    return {
        name: [
            round(row[name], digits[name]) if name in digits and row[name] is not None else row[name] for row in rows
        ]
        for name in shown
    }


def _group(row: Mapping[str, Any]) -> tuple[str, str, int | None]:
    return row["dataset"], row["encoder"], row["shots"]


def _sample_rows(number: int, result: Result) -> pa.Table:
    samples, count = result.samples, len(result.samples.ids)
    accuracy = samples.attribute_accuracy
    columns: dict[str, Any] = {"result": np.full(count, number)}
    columns |= {name: [getattr(result, name)] * count for name in _KEY}
    columns |= {"id": samples.ids, "caption": samples.captions, "reference": samples.references}
    columns |= {
        "attribute_accuracy": pa.nulls(count, pa.float64()) if accuracy is None else accuracy,
        "cider_d": samples.cider_d,
    }
    return pa.table(columns, schema=_SAMPLES_SCHEMA)


def _samples_of(rows: pa.Table) -> SampleScores:
    accuracy = rows["attribute_accuracy"]
    return SampleScores(
        ids=tuple(rows["id"].to_pylist()),
        captions=tuple(rows["caption"].to_pylist()),
        references=tuple(rows["reference"].to_pylist()),
        attribute_accuracy=None if accuracy.null_count else accuracy.to_numpy(),
        cider_d=rows["cider_d"].to_numpy(),
    )

"""Results of methods whose scores at each support size are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluation.results import RETRIEVAL_METRICS, TEXT_METRICS, Result, SampleScores

FULL_PAIRS = {"satellite": 2000, "imu": 4000}


def make_curves(
    scores: Mapping[str, Mapping[int | None, float]],
    *,
    datasets: Sequence[str] = ("satellite", "imu"),
    encoders: Sequence[str] = ("a",),
    draws: int = 5,
    samples: int = 40,
    noise: float = 0.0,
    attributes: bool = True,
) -> list[Result]:
    """Every sample scores what its method does at that size, plus noise that belongs to sample, draw and method."""
    rng = np.random.default_rng(0)
    results = []
    for dataset in datasets:
        hardness = rng.normal(scale=noise, size=samples)
        for encoder in encoders:
            for method, by_shots in scores.items():
                for shots, score in by_shots.items():
                    for draw in range(1 if shots is None else draws):
                        values = score + hardness + rng.normal(scale=noise, size=samples) + rng.normal(scale=noise / 4)
                        results.append(
                            Result(
                                dataset=dataset,
                                encoder=f"{dataset}-{encoder}",
                                method=method,
                                shots=shots,
                                draw=draw,
                                seed=0,
                                pairs=FULL_PAIRS[dataset] if shots is None else shots,
                                attribute_accuracy=float(values.mean()) if attributes else None,
                                cider_d=100.0 * float(values.mean()),
                                **dict.fromkeys(TEXT_METRICS, 10.0),
                                **dict.fromkeys(RETRIEVAL_METRICS, 20.0),
                                trained_parameters=1000,
                                deployed_parameters=20_000,
                                seconds=0.5,
                                peak_bytes=3 << 20,
                                per_attribute={},
                                samples=SampleScores(
                                    ids=tuple(f"{dataset}-{number}" for number in range(samples)),
                                    captions=("a caption",) * samples,
                                    references=("a reference",) * samples,
                                    attribute_accuracy=values if attributes else None,
                                    cider_d=100.0 * values,
                                ),
                            )
                        )
    return results

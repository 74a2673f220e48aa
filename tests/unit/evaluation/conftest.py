"""Results made of captions whose words are right with a known probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pipeline.evaluation.results import Result, score_captions

VALUES = {
    "shape": ("circle", "square", "triangle", "star"),
    "colour": ("red", "dark red", "blue", "green"),
    "size": ("tiny", "small", "large", "huge"),
}
SKILLS = {"semi": 0.9, "semi_shuffled_text": 0.3, "scratch": 0.5}

MakeResults = Callable[..., list[Result]]
Texts = tuple[list[str], list[list[str]]]


def caption(truth: dict[str, str]) -> str:
    return f"A {truth['size']} {truth['shape']} in {truth['colour']}."


def _make(
    *,
    datasets: Sequence[str] = ("satellite", "imu"),
    encoders: Sequence[str] = ("a", "b"),
    shots: Sequence[int] = (32,),
    draws: int = 3,
    samples: int = 24,
    attributes: bool = True,
) -> list[Result]:
    rng = np.random.default_rng(0)
    vocabulary = {name: frozenset(values) for name, values in VALUES.items()} if attributes else {}
    results = []
    for dataset in datasets:
        truths = [{name: str(rng.choice(values)) for name, values in VALUES.items()} for _ in range(samples)]
        for encoder in encoders:
            for size in shots:
                for method, skill in SKILLS.items():
                    for draw in range(draws):
                        guesses = [
                            {n: v if rng.random() < skill else str(rng.choice(VALUES[n])) for n, v in truth.items()}
                            for truth in truths
                        ]
                        results.append(
                            score_captions(
                                dataset=dataset,
                                encoder=f"{dataset}-{encoder}",
                                method=method,
                                shots=size,
                                draw=draw,
                                seed=0,
                                pairs=size,
                                ids=[f"{dataset}-{number}" for number in range(samples)],
                                captions=[caption(guess) for guess in guesses],
                                references=[[caption(truth), f"another text {dataset}"] for truth in truths],
                                truths=truths,
                                vocabulary=vocabulary,
                                trained_parameters=100 if encoder == "a" else 300,
                                deployed_parameters=1000,
                                seconds=0.5 + draw,
                                peak_bytes=0,
                            )
                        )
    return results


@pytest.fixture(scope="session")
def make_results() -> MakeResults:
    return _make


@pytest.fixture(scope="session")
def results(make_results: MakeResults) -> list[Result]:
    return make_results()


@pytest.fixture(scope="session")
def texts() -> Texts:
    """Captions of 40 samples and one to three references of each, tokens alike in every tokeniser."""
    rng = np.random.default_rng(0)
    words = "a red circle on the left of large blue square near green star with bright pattern".split()

    def text() -> list[str]:
        return [str(word) for word in rng.choice(words, size=rng.integers(4, 9))]

    references = [[" ".join(text()) for _ in range(rng.integers(1, 4))] for _ in range(40)]
    # Candidates share most of their words, in order, with a reference.
    candidates = [
        " ".join(w if rng.random() < 0.8 else str(rng.choice(words)) for w in r[0].split()) for r in references
    ]
    candidates[3] = " ".join(text()[:2])
    return candidates, references

"""Retrieval recall by hand, with ties and duplicates."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.retrieval import retrieval_recall

AXES = np.eye(4)


def test_recall_by_hand() -> None:
    # The first finds its own; the second's own comes second; the third's comes last of three.
    references = AXES[:3]
    queries = np.array([[1.0, 0.1, 0.0, 0.0], [0.9, 0.5, 0.1, 0.0], [0.9, 0.5, 0.1, 0.0]])
    assert [retrieval_recall(queries, references, at) for at in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_length_does_not_count() -> None:
    rng = np.random.default_rng(0)
    queries, references = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    scaled = queries * rng.uniform(0.1, 10.0, size=(20, 1))
    for at in (1, 5):
        assert retrieval_recall(scaled, references, at) == retrieval_recall(queries, references, at)


def test_equal_references_are_hits_and_take_one_place() -> None:
    # Samples 0 to 2 have the same reference: each of their queries finds it; sample 3's own is second, not fourth.
    references = np.stack([AXES[0], AXES[0], AXES[0], AXES[1]])
    queries = np.stack([AXES[0], AXES[0], AXES[0], AXES[0] + 0.5 * AXES[1]])
    assert retrieval_recall(queries, references, 1) == 0.75
    assert retrieval_recall(queries, references, 2) == 1.0


def test_many_equal_references_tie_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    references = rng.normal(size=(7, 33)).astype(np.float32)[rng.integers(7, size=500)]
    assert retrieval_recall(references, references, 1) == 1.0


def test_a_query_that_says_nothing_finds_nothing() -> None:
    assert retrieval_recall(np.zeros((4, 4)), AXES, 3) == 0.0
    assert retrieval_recall(np.ones((4, 4)), AXES, 3) == 0.0


def test_an_order_that_is_shuffled_alike_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    references = rng.normal(size=(30, 6))
    queries, order = references + rng.normal(size=(30, 6)), rng.permutation(30)
    for at in (1, 5):
        assert retrieval_recall(queries[order], references[order], at) == retrieval_recall(queries, references, at)
    assert retrieval_recall(queries, references, 1) < retrieval_recall(queries, references, 5) < 1.0


@pytest.mark.parametrize(
    ("queries", "references", "at", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 3)), 1, r"alike and not empty, got \(2, 3\) and \(3, 3\)"),
        (np.ones((0, 3)), np.ones((0, 3)), 1, "not empty"),
        (np.ones((2, 3)), np.ones((2, 3)), 0, "at must be 1 or more, got 0"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), 1, "finite"),
    ],
)
def test_unusable_embeddings_are_refused(queries: np.ndarray, references: np.ndarray, at: int, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        retrieval_recall(queries, references, at)

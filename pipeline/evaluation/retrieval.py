"""Retrieval recall: how often the nearest references of a query hold its own.

In: embeddings of queries (of generated captions, say) and of references, row i belonging to row i.
Out: the share of queries that find theirs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def retrieval_recall(queries_ND: npt.NDArray[np.floating], references_ND: npt.NDArray[np.floating], at: int) -> float:
    """R@`at` in 0..1: the share of `retrieval_ranks` up to `at`."""
    if at < 1:
        raise ValueError(f"at must be 1 or more, got {at}")
    return float((retrieval_ranks(queries_ND, references_ND) <= at).mean())


def retrieval_ranks(
    queries_ND: npt.NDArray[np.floating], references_ND: npt.NDArray[np.floating]
) -> npt.NDArray[np.int64]:
    """At which place each query finds its own reference, from 1, by cosine similarity; `[N]`.

    Equal references are one: whichever of them is found is a hit, and together they take one place.  Different
    references that are exactly as near count against the query, so that a query that says nothing (a zero vector, as
    near to all as to its own) finds nothing.
    """
    if queries_ND.ndim != 2 or queries_ND.shape != references_ND.shape or len(queries_ND) == 0:
        raise ValueError(
            f"queries and references must be [n, width], alike and not empty, got {queries_ND.shape} and "
            f"{references_ND.shape}"
        )
    if not (np.isfinite(queries_ND).all() and np.isfinite(references_ND).all()):
        raise ValueError("embeddings must be finite")
    # Over distinct rows: products with equal rows can differ in the last bit, where no tie must be broken.
    distinct_MD, own_N = np.unique(_unit(references_ND), axis=0, return_inverse=True)
    similarity_NM = _unit(queries_ND) @ distinct_MD.T
    own_similarity_N = np.take_along_axis(similarity_NM, own_N.reshape(-1, 1), axis=1)
    # Its own is among those that are at least as near.
    ranks_N: npt.NDArray[np.int64] = (similarity_NM >= own_similarity_N).sum(axis=1)
    return ranks_N


def _unit(rows_ND: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    wide_ND = rows_ND.astype(np.float64)
    norms_N1 = np.linalg.norm(wide_ND, axis=1, keepdims=True)
    unit_ND: npt.NDArray[np.float64] = wide_ND / np.where(norms_N1 > 0, norms_N1, 1.0)
    return unit_ND

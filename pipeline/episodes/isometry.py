"""Random isometries of an embedding space: how one real modality becomes many (METHOD section 2.2).

In: a kind, a width and a seed.  Out: an `Isometry` that maps `[..., E]` to `[..., E]` and keeps every distance.
One draw serves an episode's support and queries alike; text embeddings get none.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pipeline.episodes.sampler import philox
from pipeline.transfer import to_device

_STREAM, _BANK_STREAM, _ROWS_STREAM = 11, 12, 18
_RIDGE = 1e-12
"""Relative to the mean square of the rows' lengths; a float64's rounding of their products is below 1e-13."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Isometry:
    """A drawn isometry in the cheapest form that its kind allows."""

    matrix_EE: Tensor | None = None
    """Dense orthogonal matrix; rows are multiplied from the left: `x @ matrix`."""
    packed_EE: Tensor | None = None
    """E Householder reflections as LAPACK's `geqrf` leaves them: column k holds the tail of the k-th normal, whose
    leading entry is 1. `ormqr` applies their product without forming it."""
    tau_E: Tensor | None = None
    """Factors of the packed reflections `1 - tau v v^T`."""
    reflectors_HE: Tensor | None = None
    """Unit normals of Householder reflections, applied first to last."""
    permutation_E: Tensor | None = None
    """Indices of a permutation of the coordinates."""
    signs_E: Tensor | None = None
    """Signs of the coordinates, applied last."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        if self.matrix_EE is not None:
            return x @ self.matrix_EE
        if self.reflectors_HE is not None:
            for normal_E in self.reflectors_HE:
                x = x - 2.0 * (x @ normal_E).unsqueeze(-1) * normal_E
            return x
        if self.packed_EE is not None and self.tau_E is not None:
            x = torch.ormqr(self.packed_EE, self.tau_E, x.reshape(-1, x.shape[-1]), left=False).reshape(x.shape)
        if self.permutation_E is not None:
            x = x[..., self.permutation_E]
        return x if self.signs_E is None else x * self.signs_E


@dataclass(frozen=True, kw_only=True, eq=False)
class HaarOfRows:
    """Haar isometries of R^E as they are seen by n rows each, n <= E / 2, that are mapped all at once.

    Rows X become R^T L^-1 G, where X X^T = R^T R, and G has n rows of standard normal numbers with G G^T = L L^T. Why
    that is `X Q` in law: X is R^T V^T for some orthonormal V, and V^T Q, n rows of a Haar matrix, is a uniform frame of
    n vectors; so is L^-1 G, orthonormal and with a law that no rotation changes. Costs n / E of drawing and applying Q.
    """

    gaussian_NnE: Tensor
    """G of each of N isometries."""

    def __call__(self, x_NnE: Tensor) -> Tensor:
        """Map exactly the N times n rows that they were drawn for."""
        if x_NnE.shape != self.gaussian_NnE.shape:
            raise ValueError(
                f"these isometries were drawn for {tuple(self.gaussian_NnE.shape)} numbers, got {tuple(x_NnE.shape)}: "
                "map all rows of an episode at once"
            )
        # Without checks of the result, for which a GPU would have to be waited for.
        lower_Nnn, _ = torch.linalg.cholesky_ex(self.gaussian_NnE @ self.gaussian_NnE.mT)
        mixing_Nnn: Tensor = torch.linalg.solve_triangular(lower_Nnn, _gram_root(x_NnE), upper=False, left=False)
        return mixing_Nnn @ self.gaussian_NnE


def _gram_root(x_NnE: Tensor) -> Tensor:
    """Lower triangular R^T with R^T R = X X^T, to float32's precision.

    In float64, since products square the ratio of the largest to the smallest direction. Rows that depend on one
    another (a sample that occurs twice) have no such root to the last digit: what is added for them moves no distance
    by more than a float32's rounding.
    """
    wide_NnE = x_NnE.double()
    gram_Nnn = wide_NnE @ wide_NnE.mT
    diagonal_Nn = gram_Nnn.diagonal(dim1=-2, dim2=-1)
    diagonal_Nn += _RIDGE * diagonal_Nn.mean(dim=-1, keepdim=True) + torch.finfo(torch.float32).tiny
    root_Nnn, failed_N = torch.linalg.cholesky_ex(gram_Nnn)
    return torch.where(failed_N[..., None, None] == 0, root_Nnn, torch.nan).to(x_NnE.dtype)


def sample_haar_of_rows(
    rows: int, width: int, seeds: Sequence[int], *, device: torch.device | str = "cpu"
) -> HaarOfRows:
    """A Haar isometry for each seed, for `rows` rows each."""
    drawn = np.empty((len(seeds), rows, width), dtype=np.float32)

    def fill(indices: range) -> None:
        for index in indices:
            philox(_ROWS_STREAM, seeds[index]).standard_normal(dtype=np.float32, out=drawn[index])

    # Of all that an episode needs this alone is bound to the CPU; NumPy draws without the interpreter's lock.
    count = torch.get_num_threads()
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(fill, [range(first, len(seeds), count) for first in range(count)]))
    return HaarOfRows(gaussian_NnE=to_device(torch.from_numpy(drawn), device))


def sample_isometry(kind: str, width: int, seed: int, *, device: torch.device | str = "cpu") -> Isometry:
    """Draw an isometry of `R^width`; a pure function of its arguments, and of every bit of the seed.

    `haar` is uniform on O(E). `bank:n` draws one of n such matrices, which are made once a process and kept
    (n * width^2 * 4 bytes). `householder:k` composes k random reflections, `none` is the identity and
    `signed_permutation` permutes and flips coordinates.

    Numbers are drawn on the CPU, so that every device gets the same isometry; the rest is done where `device` says.
    """
    rng = philox(_STREAM, seed)
    if kind == "none":
        return Isometry()
    if kind == "haar":
        return _haar(width, rng, device)
    if kind == "signed_permutation":
        permutation_E = torch.from_numpy(rng.permutation(width))
        signs_E = torch.from_numpy(rng.choice(np.array([-1.0, 1.0], dtype=np.float32), size=width))
        return Isometry(permutation_E=permutation_E.to(device), signs_E=signs_E.to(device))
    name, _, count = kind.partition(":")
    if name == "bank" and count.isdigit() and int(count) > 0:
        return Isometry(matrix_EE=_banked(width, seed % int(count), torch.device(device)))
    if name == "householder" and count.isdigit() and int(count) > 0:
        normals_HE = gaussian(rng, int(count), width)
        return Isometry(reflectors_HE=torch.nn.functional.normalize(normals_HE, dim=-1).to(device))
    raise ValueError(
        f"isometry={kind!r}: allowed are none, haar, bank:n, signed_permutation and householder:k, n, k >= 1"
    )


def gaussian(rng: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, float32, on the CPU.

    Not from `torch.Generator`: on the CPU it reads the lower 32 bits of a seed alone, and episodes have 63.
    """
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _haar(width: int, rng: np.random.Generator, device: torch.device | str) -> Isometry:
    """An isometry uniform on O(E), without a QR decomposition (Stewart 1980).

    The QR decomposition of a Gaussian matrix meets in its k-th step a Gaussian vector x_k of E - k + 1 entries,
    independent of all earlier ones, and reflects it onto the first axis: `H_k x_k = beta_k e_1` with beta_k =
    -sign(x_k1) |x_k|. So these vectors can be drawn directly. R's diagonal is (beta_1, ..., beta_E), and Q is uniform
    once its columns have those signs (Mezzadri 2007): Q = H_1 ... H_E diag(sign(beta)). Its determinant, the product
    of the x_k1's signs, is 1 or -1 with equal probability.
    """
    upper_EE = torch.ones(width, width, dtype=torch.bool, device=device).triu_()
    drawn = gaussian(rng, width * (width + 1) // 2).to(device)
    x_EE = torch.zeros(width, width, device=device).masked_scatter_(upper_EE, drawn)  # row k is x_k behind k zeros
    # A float can be exactly 0, and the last vector is one float: any fixed vector serves where all entries are.
    norm_E = torch.linalg.vector_norm(x_EE, dim=1)
    first_E = torch.where(norm_E > 0, x_EE.diagonal(), 1.0)
    norm_E = torch.where(norm_E > 0, norm_E, 1.0)
    signs_E = torch.where(first_E < 0, 1.0, -1.0)
    beta_E = signs_E * norm_E
    return Isometry(
        packed_EE=(x_EE / (first_E - beta_E).unsqueeze(1)).mT, tau_E=(beta_E - first_E) / beta_E, signs_E=signs_E
    )


@cache
def _banked(width: int, index: int, device: torch.device) -> Tensor:
    return _haar(width, philox(_BANK_STREAM, index), device)(torch.eye(width, device=device))

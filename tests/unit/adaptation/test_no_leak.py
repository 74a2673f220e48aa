"""Methods read the K pairs of their draw and nothing else of a modality: poison in all other rows changes nothing."""

from __future__ import annotations

from typing import cast, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.adaptation.support import SupportSet, read_support
from pipeline.config.schema import MethodName
from pipeline.evaluation.protocol import draw_support
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.training.sources import SplitRows
from tests.unit.adaptation.worlds import ATTRIBUTES, CAPTIONS, TEXT_WIDTH, behaviour, make_world

METHODS: tuple[MethodName, ...] = get_args(MethodName)
every_method = pytest.mark.parametrize("name", METHODS)
ROWS, SHOTS, WIDTH, SEED = 40, 6, 6, 5
QUERIES = normalize(torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(9)), dim=-1)


class Rows:
    """Training rows of a modality; those that are not `clean` are NaN and garbage."""

    modality, encoder = "radar", "radar-a"

    def __init__(self, clean: npt.NDArray[np.int64] | None = None) -> None:
        generator = torch.Generator().manual_seed(3)
        kinds = normalize(torch.randn(len(CAPTIONS), TEXT_WIDTH, generator=generator), dim=-1)
        which = [row % len(CAPTIONS) for row in range(ROWS)]
        self.instruction_W = kinds[0].clone()
        self._x_NE = normalize(torch.randn(ROWS, WIDTH, generator=generator), dim=-1)
        self._texts_NW = kinds[which]
        self._captions = [(CAPTIONS[kind],) for kind in which]
        self._attributes = [dict(ATTRIBUTES[kind]) for kind in which]
        for row in [] if clean is None else sorted(set(range(ROWS)) - set(clean.tolist())):
            self._x_NE[row] = torch.nan
            self._texts_NW[row] = torch.nan
            self._captions[row] = ("poison",)
            self._attributes[row] = {"shape": "poison"}

    def __len__(self) -> int:
        return ROWS

    def embeddings(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return self._x_NE[rows]

    def text_embeddings(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return self._texts_NW[rows]

    def captions(self, rows: npt.NDArray[np.int64]) -> list[tuple[str, ...]]:
        return [self._captions[row] for row in rows]

    def attributes(self, rows: npt.NDArray[np.int64]) -> list[dict[str, str]]:
        return [self._attributes[row] for row in rows]

    def ids(self, rows: npt.NDArray[np.int64]) -> list[str]:
        return [f"row {row}" for row in rows]


def drawn(draw: int) -> npt.NDArray[np.int64]:
    return draw_support(np.arange(ROWS), SHOTS, SEED, draw)


def support(rows: Rows, draw: int = 0) -> SupportSet:
    return read_support(cast(SplitRows, rows), drawn(draw))


@every_method
def test_rows_outside_the_support_change_no_bit(llm: FrozenLLM, name: MethodName) -> None:
    clean, poisoned = Rows(), Rows(clean=drawn(0))
    expected = behaviour(make_world(llm).method(name).fit(support(clean), 1), QUERIES)
    found = behaviour(make_world(llm).method(name).fit(support(poisoned), 1), QUERIES)
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])
    assert "poison" not in " ".join(found[0])


def test_the_poison_would_show() -> None:
    other = support(Rows(clean=drawn(0)), draw=1)
    assert other.embeddings_KE.isnan().any() and other.texts_KW.isnan().any()
    assert ("poison" in other.captions) and ({"shape": "poison"} in other.attributes)


@every_method
def test_a_test_row_is_captioned_alike_whatever_the_others_are(llm: FrozenLLM, name: MethodName) -> None:
    captioner = make_world(llm).method(name).fit(support(Rows()), 1)
    poisoned = QUERIES.clone()
    poisoned[3:] *= -1e4
    expected, found = behaviour(captioner, QUERIES), behaviour(captioner, poisoned)
    assert found[0][:3] == expected[0][:3] and torch.equal(found[1][:3], expected[1][:3])
    # Nor does the captioner remember: the same row alone, after all others.
    assert captioner.caption(QUERIES[:1]) == expected[0][:1]


@every_method
def test_captioning_test_rows_leaves_the_method_as_it_was(llm: FrozenLLM, name: MethodName) -> None:
    method = make_world(llm).method(name)
    method.fit(support(Rows()), 1).caption(-1e4 * QUERIES)
    again = behaviour(method.fit(support(Rows()), 1), QUERIES)
    fresh = behaviour(make_world(llm).method(name).fit(support(Rows()), 1), QUERIES)
    assert again[0] == fresh[0] and torch.equal(again[1], fresh[1])

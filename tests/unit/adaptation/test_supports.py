"""Supports as they are read and drawn from rows."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipeline.adaptation.support import check_support, distinct_pairs, draw_supports, read_support, shuffle_texts
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.training.sources import SplitRows
from tests.unit.adaptation.worlds import make_support


class Rows:
    """Rows whose contents are their own positions; refuses any position that is asked for twice."""

    modality, encoder = "radar", "radar-a"
    instruction_W = torch.zeros(2)

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def embeddings(self, positions: npt.NDArray[np.int64]) -> Tensor:
        assert len(set(positions.tolist())) == len(positions)
        return torch.from_numpy(positions).float().unsqueeze(1)

    text_embeddings = embeddings

    def captions(self, positions: npt.NDArray[np.int64]) -> list[tuple[str, ...]]:
        return [(f"caption {position}", "another") for position in positions]

    def attributes(self, positions: npt.NDArray[np.int64]) -> list[dict[str, str]]:
        return [{"row": str(position)} for position in positions]

    def ids(self, positions: npt.NDArray[np.int64]) -> list[str]:
        return [f"id {position}" for position in positions]


def rows(size: int) -> SplitRows:
    return cast(SplitRows, Rows(size))


def test_a_support_holds_its_rows_and_no_others() -> None:
    support = read_support(rows(9), np.array([4, 1]))
    assert support.ids == ("id 4", "id 1")
    assert support.captions == ("caption 4", "caption 1")
    assert support.attributes == ({"row": "4"}, {"row": "1"})
    assert support.embeddings_KE.flatten().tolist() == support.texts_KW.flatten().tolist() == [4, 1]


def test_training_supports_are_drawn_by_the_seed_without_replacement() -> None:
    sources = [rows(40), rows(40), rows(3)]
    drawn = draw_supports(sources, 8, 1)
    assert [support.shots for support in drawn] == [8, 8, 3], "all there are, where there are fewer"
    assert [support.ids for support in drawn] == [support.ids for support in draw_supports(sources, 8, 1)]
    assert drawn[0].ids != drawn[1].ids
    assert drawn[0].ids != draw_supports(sources, 8, 2)[0].ids


def test_shuffled_attributes_go_with_their_captions() -> None:
    support = read_support(rows(9), np.arange(5))
    shuffled = shuffle_texts(support, 0)
    assert [f"caption {values['row']}" for values in shuffled.attributes] == list(shuffled.captions)
    assert shuffle_texts(replace(make_support(), attributes=()), 0).attributes == ()


class Repeated(Rows):
    """Rows 0 and 2 are the same pair; rows 1 and 3 share the embedding alone."""

    def embeddings(self, positions: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(positions % 2).float().unsqueeze(1)

    def captions(self, positions: npt.NDArray[np.int64]) -> list[tuple[str, ...]]:
        return [("same",) if position % 2 == 0 else (f"caption {position}",) for position in positions]


def test_equal_pairs_count_once() -> None:
    assert distinct_pairs(cast(SplitRows, Repeated(4))).tolist() == [0, 1, 3]
    assert distinct_pairs(rows(5)).tolist() == [0, 1, 2, 3, 4]


def test_pairs_that_teach_nothing_are_refused(llm: FrozenLLM) -> None:
    good = replace(
        make_support(), captions=("a red circle", "a blue square") + ("a circle",) * (make_support().shots - 2)
    )
    check_support(good, llm)
    for changes, message in [
        ({"captions": ("a circle",) * good.shots}, "all .* pairs of the support have the caption 'a circle'"),
        (
            {"embeddings_KE": good.embeddings_KE[:1].expand(good.shots, -1)},
            "the same embedding: choose another encoder",
        ),
        ({"captions": ("красный круг", *good.captions[1:])}, "1 of .* captions, such as 'красный круг', hold no word"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_support(replace(good, **changes), llm)  # type: ignore[arg-type]


def test_features_that_never_vary_are_allowed(llm: FrozenLLM) -> None:
    support = make_support()
    support = replace(support, captions=("a red circle", "a blue square") * (support.shots // 2))
    constant = support.embeddings_KE.clone()
    constant[:, 0] = 0.5
    check_support(replace(support, embeddings_KE=constant), llm)

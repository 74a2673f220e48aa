"""Dropout masks: the same for any number of workers, another one each step and slot, unbiased."""

from __future__ import annotations

import pytest
import torch

from pipeline.episodes.dropout import KeepMasks


def test_masks_are_a_slots_own() -> None:
    masks = KeepMasks((3, 50), 0.3, seed=1)
    whole = masks.draw(5, range(4), "cpu")
    assert whole is not None and whole.shape == (4, 3, 50)
    for rank in range(2):
        part = masks.draw(5, range(rank, 4, 2), "cpu")
        assert part is not None and torch.equal(part, whole[rank::2])
    others = [masks.draw(6, range(4), "cpu"), KeepMasks((3, 50), 0.3, seed=2).draw(5, range(4), "cpu"), whole.flip(0)]
    assert not any(other is not None and torch.equal(other, whole) for other in others)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 1.0])
def test_share_and_expectation(dropout: float) -> None:
    masks = KeepMasks((20000,), dropout, seed=0).draw(0, range(2), "cpu")
    assert masks is not None
    assert float((masks == 0).float().mean()) == pytest.approx(dropout, abs=0.02)
    assert float(masks.mean()) == pytest.approx(float(dropout < 1), abs=0.05)


def test_no_dropout_draws_nothing() -> None:
    assert KeepMasks((4,), 0.0, seed=0).draw(0, range(2), "cpu") is None

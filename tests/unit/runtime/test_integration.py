"""The adapter of one support draw: what its card says of the fine-tuning, and what is counted when it is read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.adaptation import finetune
from pipeline.adaptation.artifact import load_card
from pipeline.adaptation.methods import SemiMethod
from pipeline.config.presets import build_preset
from pipeline.config.schema import FinetuneConfig, LLMConfig
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.runtime import integration
from pipeline.runtime.cells import Place
from pipeline.runtime.integration import AdapterCell, made_adapter, make_adapter
from tests.unit.adaptation.worlds import make_support, make_world

SMOKE = build_preset("smoke")
SUPPORT = make_support(modality="imu")


@pytest.fixture
def adapters(llm: FrozenLLM, tiny_lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes an adapter with the given fine-tuning and reads it back."""
    world = make_world(llm)

    def make(**settings: Any) -> tuple[int, int]:
        finetuning = FinetuneConfig(batch_size=2, **settings)
        config = replace(
            SMOKE,
            llm=LLMConfig(path=str(tiny_lm_dir)),
            integrate=replace(SMOKE.integrate, finetune=finetuning),
        )
        method = SemiMethod(semi=world.semi, llm=llm, finetuning=finetuning, chunk=32)
        manifest = SimpleNamespace(dtype="float16", encoder=SimpleNamespace(revision=None, fingerprint="e"))
        rows = SimpleNamespace(dataset=SimpleNamespace(manifest=manifest))
        models = SimpleNamespace(methods={"semi": method}, rows=lambda *_: rows)
        monkeypatch.setattr(integration, "run_models", lambda _: models)
        monkeypatch.setattr(integration, "read_draw", lambda *_: SUPPORT)
        place = Place(
            config=config,
            root=tmp_path,
            run_dir=tmp_path / str(settings),
            fingerprint="integrate",
            dataset="imu",
            encoder="imu-a",
            encoder_number=0,
            shots=SUPPORT.shots,
        )
        cell = AdapterCell(place=place, draw=0)
        card = load_card(make_adapter(cell))
        found = made_adapter(cell, llm, SUPPORT, "integrate")
        assert found is not None
        assert found[0].trained_parameters == method.fit(SUPPORT, 0).trained_parameters
        return card.finetune_steps, found[0].trained_parameters

    return make


def test_the_card_says_how_many_steps_were_made(adapters: Any) -> None:
    assert adapters(steps=4)[0] == 4
    assert adapters(steps=4, min_epochs=5.0)[0] == 13, "more passes than four steps make"
    assert adapters(steps=0) == (0, 0)


@pytest.mark.parametrize("chosen", [0, 2])
def test_the_card_says_the_number_that_selection_chose(
    adapters: Any, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "best_candidate", lambda *_: chosen)
    steps, trained = adapters(steps=8, selection="holdout")
    assert steps == chosen and (trained > 0) == (chosen > 0)


def test_only_what_was_tuned_counts_as_trained(adapters: Any) -> None:
    _, everything = adapters(steps=2)
    _, biases = adapters(steps=2, tuned="biases")
    assert 0 < biases < everything

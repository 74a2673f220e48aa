"""A registered adapter: what the registry's pages say, and the way from a version to the run that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.adaptation.artifact import AdapterCard, SignalCard, save_adapter
from pipeline.config.schema import EncoderConfig, LLMConfig, TrackingConfig
from pipeline.encoders import precomputed
from pipeline.encoders.registry import encoder_fingerprint
from pipeline.models.frozen_llm import llm_fingerprint
from pipeline.models.projector import Projector
from pipeline.tracking import open_tracker, source_tags
from pipeline.tracking.registry import register_adapter
from pipeline.tracking.store import Store, local_uri
from tests.tiny_lm import save_tiny_lm

WIDTH = 6


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter for ready vectors, with random weights."""
    save_tiny_lm(tmp_path / "models" / "lm")
    llm = LLMConfig(path="models/lm", max_caption_tokens=4)
    vectors = EncoderConfig(name="vectors", path=precomputed.PATH, width=WIDTH)
    torch.manual_seed(0)
    card = AdapterCard(
        method="semi",
        hypernet="equivariant",
        rank=4,
        modality="tiles",
        signals=SignalCard(kind="vector"),
        encoder=vectors,
        encoder_fingerprint=encoder_fingerprint(vectors, "vector", tmp_path),
        llm=llm,
        llm_fingerprint=llm_fingerprint(llm, tmp_path),
        input_width=WIDTH,
        hidden_width=8,
        llm_width=16,
        soft_tokens=2,
        finetune_steps=3,
        seconds=0.1,
        support_ids=("a", "b"),
        seed=0,
        draw=0,
        config_fingerprint="f",
        scores={"cider_d": 12.5},
    )
    save_adapter(tmp_path / "tiles", Projector(WIDTH, 16, hidden_width=8, soft_tokens=2, dropout=0.0), card)
    return tmp_path / "tiles"


def register(runs_dir: Path, adapter: Path, made_by: str | None) -> tuple[Any, Any, Any]:
    """The client, the version and its run."""
    store = Store(local_uri(runs_dir), "semi")
    tags = source_tags("jobs.register_model", "feed")
    made = register_adapter(
        store, adapter, "tiles", adapter.parent, copy_models=False, tags=tags, made_by=made_by
    )  # fmt: skip
    version = store.client.get_model_version("tiles", made.version)
    return store.client, version, store.client.get_run(version.run_id)


def pipeline_run(runs_dir: Path, key: str) -> None:
    with open_tracker(
        TrackingConfig(), runs_dir, name="demo", params={}, commit="c", config_fingerprint="f", source="s", key=key
    ) as run, run.stage("meta_train"):  # fmt: skip
        pass


def test_a_version_leads_to_its_run_and_that_to_the_run_that_made_the_adapter(runs_dir: Path, adapter: Path) -> None:
    pipeline_run(runs_dir, "other-1")
    pipeline_run(runs_dir, "mine-1")
    client, version, run = register(runs_dir, adapter, "mine")
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["mlflow.semi.key"] == "mine-1" and parent.data.tags["kind"] == "run"
    assert (run.data.tags["kind"], run.data.tags["mlflow.source.name"]) == ("adapter", "jobs.register_model")
    assert run.data.params["shots"] == "2" and run.data.metrics == {"cider_d": 12.5}
    assert f"[demo](#/experiments/{run.info.experiment_id}/runs/{parent.info.run_id})" in version.description
    assert "Captions **tiles** (vector): `semi` from 2 pairs" in version.description
    assert "cider_d 12.500" in version.description
    assert run.data.tags["mlflow.note.content"] == version.description
    assert version.tags == {"modality": "tiles", "method": "semi", "shots": "2"}
    assert "caption of every vector" in client.get_registered_model("tiles").description
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert [one.model_id for one in parent.outputs.model_outputs] == [model.model_id], "its page shows the model"
    assert model.source_run_id == run.info.run_id and model.params["rank"] == "4"


def test_an_adapter_of_no_known_run_and_a_description_of_ones_own(runs_dir: Path, adapter: Path) -> None:
    store = Store(local_uri(runs_dir), "semi")
    store.client.create_registered_model("tiles", description="mine")
    client, version, run = register(runs_dir, adapter, "gone")
    assert "mlflow.parentRunId" not in run.data.tags and "Made by" not in version.description
    assert client.get_registered_model("tiles").description == "mine"

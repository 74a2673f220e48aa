"""Adapters of held-out modalities: one task a (modality, encoder), support size and draw.

In: the configuration and a run with trained stages.  Out: the adapter artifacts of `integrate`. A finished one is kept
and found again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.adaptation.artifact import AdapterCard, SignalCard, check_fits, load_adapter, save_adapter
from pipeline.adaptation.captioner import ProjectorCaptioner
from pipeline.adaptation.finetune import Finetuned, choose_tuned
from pipeline.adaptation.methods import SemiMethod, count_parameters
from pipeline.adaptation.support import SupportSet
from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import AdapterMethod, DatasetConfig, ExperimentConfig
from pipeline.models.frozen_llm import FrozenLLM, llm_fingerprint
from pipeline.runtime.cells import Place, fit_seed, places, read_draw, run_models
from pipeline.shards import Manifest


@dataclass(frozen=True, kw_only=True)
class AdapterCell:
    """One adapter."""

    place: Place
    """Where: modality, encoder, support size."""
    draw: int
    """Number of the support draw."""

    @property
    def name(self) -> str:
        """Folder name of the adapter."""
        return f"{self.place.name}/draw-{self.draw}"

    @property
    def directory(self) -> Path:
        """Folder of the adapter."""
        return self.place.run_dir / "integrate" / self.name


def adapter_cells(config: ExperimentConfig, root: Path, run_dir: Path, stage_fingerprint: str) -> list[AdapterCell]:
    """All adapters of a configuration."""
    return [
        AdapterCell(place=place, draw=draw)
        for place in places(config, root, run_dir, stage_fingerprint)
        for draw, _ in config.evaluate.design.replicates(place.shots, draws=config.integrate.draws, stochastic=False)
    ]


def make_adapter(cell: AdapterCell) -> Path:
    """Make an adapter, or find it finished; returns its folder."""
    place = cell.place
    identity = fingerprint((place.fingerprint, cell.name))
    if holds_adapter(cell.directory, identity):
        return cell.directory
    models = run_models(place)
    support = read_draw(models, place, cell.draw)
    method = models.methods.get("semi")
    if not isinstance(method, SemiMethod):
        raise ValueError("evaluate.methods must contain 'semi' for the integrate stage")
    began = time.perf_counter()
    made = method.project(support, fit_seed(place.config, cell.draw, 0))
    config = place.config
    dataset = next(one for one in config.datasets if one.name == place.dataset)
    card = adapter_card(
        config,
        dataset,
        "semi",
        models.rows("train", place).dataset.manifest,
        support,
        made,
        root=place.root,
        seconds=time.perf_counter() - began,
        draw=cell.draw,
        identity=identity,
    )
    save_adapter(cell.directory, made.projector, card)
    return cell.directory


def holds_adapter(directory: Path, identity: str) -> bool:
    """Whether a folder holds the adapter of exactly this identity, whole."""
    try:
        return load_adapter(directory)[1].config_fingerprint == identity
    except ValueError:  # none there, or one of another format: it is made again
        return False


def made_adapter(
    cell: AdapterCell, llm: FrozenLLM, support: SupportSet, stage_fingerprint: str
) -> tuple[ProjectorCaptioner, float] | None:
    """The captioner of an adapter that `integrate` made of exactly this, and the seconds that it took."""
    if not holds_adapter(cell.directory, fingerprint((stage_fingerprint, cell.name))):
        return None
    projector, card = load_adapter(cell.directory)
    check_fits(card, input_width=support.embeddings_KE.shape[1], llm_width=llm.width)
    choose_tuned(projector, cell.place.config.integrate.finetune.tuned)
    trained = count_parameters(projector, trainable=True) if card.finetune_steps else 0
    captioner = ProjectorCaptioner(projector=projector.to(llm.model.device), llm=llm, trained_parameters=trained)
    return captioner, card.seconds


def adapter_card(
    config: ExperimentConfig,
    dataset: DatasetConfig,
    method: AdapterMethod,
    manifest: Manifest,
    support: SupportSet,
    made: Finetuned,
    *,
    root: Path,
    seconds: float,
    draw: int,
    identity: str,
) -> AdapterCard:
    """The card of an adapter that a method made of one modality's pairs."""
    encoder = next(one for one in dataset.encoders if one.name == support.encoder)
    projector = made.projector
    return AdapterCard(
        method=method,
        hypernet=config.hypernet.kind if method == "semi" else "none",
        rank=min(config.hypernet.rank, support.shots) if method == "semi" else 0,
        modality=dataset.name,
        instruction=dataset.instruction,
        signals=SignalCard(
            kind=dataset.kind,
            payload_field=dataset.source.payload_field,
            payload=dataset.source.payload,
            storage_dtype=manifest.dtype,
        ),
        encoder=encoder,
        encoder_revision=manifest.encoder.revision,
        encoder_fingerprint=manifest.encoder.fingerprint,
        llm=config.llm,
        llm_fingerprint=llm_fingerprint(config.llm, root),
        input_width=projector.input_width,
        hidden_width=projector.linear_layers[0].out_features,
        llm_width=projector.llm_width,
        soft_tokens=projector.soft_tokens,
        finetune_steps=made.steps,
        seconds=seconds,
        support_ids=support.ids,
        seed=config.seed,
        draw=draw,
        config_fingerprint=identity,
    )

"""The embedded suite at demo size (`miniature`) and at test size (`smoke`).

Out: full configurations whose sources name the files that `pipeline.data.miniature` writes, and whose models are
those below `pipeline/models/miniature/weights` (a contract test holds the three together).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.config.schema import (
    DatasetConfig,
    EncoderConfig,
    EpisodeConfig,
    EvaluateConfig,
    ExperimentConfig,
    ExtractConfig,
    FinetuneConfig,
    HypernetConfig,
    IntegrateConfig,
    LLMConfig,
    MetaConfig,
    MethodName,
    MiniatureConfig,
    OptimConfig,
    PretrainConfig,
    ProjectorConfig,
    RuntimeConfig,
    SignalKind,
    SourceConfig,
    TrackingConfig,
)

WEIGHTS = "pipeline/models/miniature/weights"
DATA = "runs/data/miniature"
SMOKE_DATA = "runs/data/smoke"
DEMO_METHODS: tuple[MethodName, ...] = (
    "semi",
    "semi_shuffled_text",
    "semi_no_finetune",
    "scratch",
    "finetuned_projector",
    "ridge",
    "knn_3",
    "constant",
)
SMOKE_MODALITIES = ("image", "audio", "text", "imu", "digits")

SMOKE_METHODS: tuple[MethodName, ...] = (*DEMO_METHODS, "ridge_init", "retrieval_icl", "linear_probe")
"""One of each kind; `tests/integration/test_sample_efficiency.py` runs all."""


def miniature() -> ExperimentConfig:
    """The demo: nine modalities of raw signals, end to end in minutes on two cores."""
    return ExperimentConfig(
        name="demo",
        miniature=MiniatureConfig(data_dir=DATA),
        datasets=_datasets(DATA),
        text_encoder=_encoder("text-a"),
        llm=LLMConfig(path=f"{WEIGHTS}/lm"),
        # The text encoder's width; a small LM needs several soft tokens to be steered (METHOD section 7).
        projector=ProjectorConfig(input_width=128, hidden_width=512, soft_tokens=8, dropout=0.0),
        extract=ExtractConfig(rows_per_shard=1024),
        # Text as a modality teaches the projector the words of domains without pairs (METHOD section 6).
        pretrain=PretrainConfig(
            optim=OptimConfig(learning_rate=5e-3, steps=1000, warmup_steps=100),
            batch_size=64,
            text_fraction=0.95,
            text_noise=0.3,
        ),
        # Each domain of the unpaired text is a modality too: the projector learns to read what ridge regression makes
        # of a few pairs, in the words of domains that nobody has pairs for.
        episodes=EpisodeConfig(
            support_shots=(16, 32, 64),
            queries=32,
            text_fraction=0.7,
            text_group="domain",
            text_scale=0.5,
            text_noise=1.0,
        ),
        # No learned corrections (layers=0): trained on four modalities of signals they fit those and fail elsewhere.
        hypernet=HypernetConfig(kind="equivariant", rank=32, alpha=32.0, width=128, heads=4, layers=0),
        meta=MetaConfig(
            optim=OptimConfig(learning_rate=2e-3, steps=500, warmup_steps=50),
            episodes_per_step=4,
            train_projector=True,
        ),
        integrate=IntegrateConfig(shots=(32,), draws=3, encoders=1, finetune=_tuned(30, 1.12e-4, 16)),
        evaluate=EvaluateConfig(
            methods=DEMO_METHODS,
            test_samples=200,
            scratch=_tuned(60, 2.41e-3, 8, weight_decay=0.1, min_epochs=2.0),
            limber=_tuned(60, 2.41e-3, 8, weight_decay=0.1, min_epochs=2.0),
            finetuned_projector=_tuned(30, 6.72e-3, 8, weight_decay=0.1),
            random_lora=_tuned(120, 1.45e-3, 16),
            aligned_init=_tuned(30, 6.72e-3, 8, weight_decay=0.1),
        ),
    )


def _tuned(
    steps: int, learning_rate: float, batch_size: int, *, weight_decay: float = 0.0, min_epochs: float = 1.0
) -> FinetuneConfig:
    """The best of nine trials on the validation modality speech at 32 pairs (`jobs.tune_methods`, docs/RESULTS.md).

    Not searched: the passes that supports of more pairs get, two for what starts from fresh weights and else one.
    """
    return FinetuneConfig(
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        weight_decay=weight_decay,
        min_epochs=min_epochs,
    )


def smoke() -> ExperimentConfig:
    """Every stage and method at sizes that tests can afford; no figure of it means anything."""
    full = miniature()
    return replace(
        full,
        name="smoke",
        miniature=MiniatureConfig(
            data_dir=SMOKE_DATA, train_modality_samples=128, held_out_samples=160, text_samples_per_domain=32
        ),
        datasets=tuple(dataset for dataset in _datasets(SMOKE_DATA) if dataset.name in SMOKE_MODALITIES),
        projector=replace(full.projector, hidden_width=64),
        extract=ExtractConfig(rows_per_shard=64),
        pretrain=replace(full.pretrain, optim=OptimConfig(learning_rate=1e-3, steps=6, warmup_steps=1), batch_size=8),
        episodes=replace(full.episodes, support_shots=(4, 8), queries=4),
        hypernet=replace(full.hypernet, rank=4, alpha=4.0, width=32, heads=2, layers=1),
        meta=replace(
            full.meta,
            optim=OptimConfig(learning_rate=3e-4, steps=4, warmup_steps=1),
            episodes_per_step=2,
            checkpoint_every=2,
        ),
        integrate=IntegrateConfig(shots=(8,), draws=2, finetune=FinetuneConfig(steps=2, batch_size=8)),
        evaluate=replace(
            full.evaluate,
            methods=SMOKE_METHODS,
            test_samples=6,
            scratch=FinetuneConfig(steps=2, batch_size=8),
            finetuned_projector=FinetuneConfig(steps=2, batch_size=8),
            limber=FinetuneConfig(steps=2, batch_size=8),
            random_lora=FinetuneConfig(steps=2, batch_size=8),
            aligned_init=FinetuneConfig(steps=2, batch_size=8),
            bootstrap=50,
        ),
        # In this process: a test that wants Ray or MLflow says so with an override.
        runtime=RuntimeConfig(engine="local", workers=1),
        tracking=TrackingConfig(enabled=False),
    )


def _datasets(data: str) -> tuple[DatasetConfig, ...]:
    text_source = SourceConfig(
        kind="jsonl",
        path=f"{data}/text/corpus.jsonl",
        caption_field="text",
        payload_field="text",
        payload="inline",
        attribute_fields=("domain",),
    )
    return (
        _dataset("image", "image", "train", _jsonl(data, "image", "shape", "colour", "size", "position", "count")),
        _dataset("audio", "audio", "train", _csv(data, "audio", "source", "pitch", "loudness", "rhythm")),
        _dataset("video", "video", "train", _jsonl(data, "video", "object", "motion", "direction", "speed")),
        _dataset("speech", "audio", "train", _jsonl(data, "speech", "speaker", "word", "mood")),
        _dataset("text", "text", "text", text_source),
        _dataset("satellite", "image", "held_out", _csv(data, "satellite", "land", "density", "water", "side")),
        _dataset(
            "astronomy",
            "image",
            "held_out",
            _parquet(data, "astronomy", "kind", "arms", "tilt", "feature", "brightness"),
        ),
        _dataset("imu", "series", "held_out", _jsonl(data, "imu", "activity", "pace", "surface", "place")),
        _dataset(
            "molecule",
            "molecule",
            "held_out",
            SourceConfig(
                kind="csv",
                path=f"{data}/molecule/molecules.csv",
                payload_field="smiles",
                payload="inline",
                attribute_fields=("rings", "group", "halogen", "mass"),
            ),
        ),
        _dataset(
            "digits", "image", "held_out", _parquet(data, "digits", "digit", "stroke", "slant", "width", "weight")
        ),
    )


def _dataset(
    name: str, kind: SignalKind, role: Literal["train", "held_out", "text"], source: SourceConfig
) -> DatasetConfig:
    return DatasetConfig(
        name=name,
        kind=kind,
        role=role,
        source=source,
        encoders=(_encoder(f"{name}-a"), _encoder(f"{name}-b")),
        instruction=f"describe the {name}",
    )


def _encoder(name: str) -> EncoderConfig:
    return EncoderConfig(name=name, path=f"{WEIGHTS}/{name}", batch_size=128)


def _jsonl(data: str, modality: str, *attributes: str) -> SourceConfig:
    return SourceConfig(kind="jsonl", path=f"{data}/{modality}/metadata.jsonl", attribute_fields=attributes)


def _csv(data: str, modality: str, *attributes: str) -> SourceConfig:
    return SourceConfig(kind="csv", path=f"{data}/{modality}/metadata.csv", attribute_fields=attributes)


def _parquet(data: str, modality: str, *attributes: str) -> SourceConfig:
    return SourceConfig(
        kind="parquet",
        path=f"{data}/{modality}/samples.parquet",
        payload_field="image",
        payload="bytes",
        attribute_fields=attributes,
    )

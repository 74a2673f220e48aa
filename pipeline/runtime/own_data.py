"""Integrate a modality of the user's own: a few pairs that no configuration names, and a meta-trained run.

In: the run's configuration and folder, and an `OwnData`: raw files, ready embeddings, or finished shards.
Out: an adapter artifact. Embeddings of raw files are extracted to `<run>/embeddings/<modality>/<encoder>` first, where
they are missing; test rows, where the data have some, give the card its scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.adaptation.artifact import save_adapter
from pipeline.adaptation.captioner import ProjectorCaptioner
from pipeline.adaptation.methods import MethodContext, TrainedMethod, build_methods
from pipeline.adaptation.support import check_support, distinct_pairs, read_support
from pipeline.config.artifacts import embeddings_dir
from pipeline.config.fingerprint import file_sha256, fingerprint
from pipeline.config.schema import AdapterMethod, DatasetConfig, EncoderConfig, ExperimentConfig
from pipeline.encoders.registry import encoder_fingerprint
from pipeline.evaluation.metrics import caption_metrics
from pipeline.evaluation.protocol import draw_support, test_rows
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.runtime.cells import all_positions, fit_seed
from pipeline.runtime.identities import fit_settings
from pipeline.runtime.integration import adapter_card, holds_adapter
from pipeline.runtime.ray_data import extract
from pipeline.shards import EmbeddingDataset
from pipeline.shards.plan import plan_datasets
from pipeline.training.sources import SplitRows, instruction_embeddings, splits_of
from pipeline.training.stages import WEIGHTS, load_projector, load_semi


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """What the user brings, and what is to be made of it."""

    dataset: DatasetConfig
    """The modality, with one encoder; its source is not read where `shards` is given."""
    shards: Path | None = None
    """Finished shards of it."""
    shots: int | None = None
    """Pairs to integrate from; None: all that there are."""
    draw: int = 0
    """Number of the support draw."""
    method: AdapterMethod = "semi"
    """What makes the adapter."""
    license: str = "unspecified"
    """For the card."""
    out: Path | None = None
    """Folder of the adapter; None: below the run."""

    @property
    def encoder(self) -> EncoderConfig:
        """The encoder."""
        return self.dataset.encoders[0]


@dataclass(frozen=True, kw_only=True)
class Integrated:
    """What came of it."""

    directory: Path
    """Folder of the adapter."""
    shots: int
    """Pairs that the adapter was made of."""
    pairs: int
    """Different pairs that there are."""
    repeated: int
    """Pairs left out because another one is the same."""
    rejected: int
    """Rows that gave no embedding."""
    made: bool
    """False: the same adapter was there."""


def check_request(config: ExperimentConfig, own: OwnData, run_dir: Path) -> None:
    """Raise what can be known before anything is read."""
    for what, weights in _weights(own.method, run_dir).items():
        if not weights.is_file():
            raise ValueError(
                f"{run_dir} holds no {what} ({weights.relative_to(run_dir)} is missing): name a run with --name, or "
                "make one with `make demo`"
            )
    if own.method == "scratch" and config.evaluate.scratch.steps == 0:
        raise ValueError("--finetune-steps 0: a projector from scratch is nothing without steps: give 1 or more")
    taken = [dataset.name for dataset in config.datasets]
    if own.shards is None and own.dataset.name in taken:
        raise ValueError(
            f"--modality {own.dataset.name!r} is a dataset of the run's configuration ({', '.join(taken)}): choose "
            "another name"
        )


def extract_own(
    config: ExperimentConfig, own: OwnData, root: Path, run_dir: Path, *, advance: Callable[[int], None], verbose: bool
) -> None:
    """Make the shards of raw data, or find them done."""
    if own.shards is not None:
        return
    alone = _alone(config, own)
    (plan,) = plan_datasets(alone, root, run_dir / "embeddings")
    if len(plan.specs) == 1:
        # A cluster takes longer to start than one shard to be encoded.
        alone = replace(alone, runtime=replace(alone.runtime, engine="local"))
    done = 0

    def on_progress(_dataset: str, _encoder: str, rows: int, _total: int) -> None:
        nonlocal done
        advance(rows - done)
        done = rows

    extract(alone, root, run_dir / "embeddings", on_progress=on_progress, verbose=verbose)


def integrate_own(config: ExperimentConfig, own: OwnData, root: Path, run_dir: Path) -> Integrated:
    """Make the adapter, or find it done."""
    train, *test = _open(config, own, root, run_dir)
    positions = distinct_pairs(train)
    shots = len(positions) if own.shots is None else own.shots
    if not 1 <= shots <= len(positions):
        raise ValueError(
            f"--shots {shots}: {own.dataset.name!r} has {len(positions)} different pairs in its train split: give at "
            f"most {len(positions)}, or more pairs"
        )
    identity = _identity(config, own, train, run_dir, shots)
    draw = f"draw-{own.draw}" if own.method == "semi" else f"draw-{own.draw}-{own.method}"
    directory = own.out or run_dir / "integrate" / own.dataset.name / own.encoder.name / f"shots-{shots}" / draw
    manifest = train.dataset.manifest
    result = Integrated(
        directory=directory,
        shots=shots,
        pairs=len(positions),
        repeated=len(train) - len(positions),
        rejected=manifest.rejected.rows,
        made=not holds_adapter(directory, identity),
    )
    if not result.made:
        return result
    llm = FrozenLLM(config.llm, root)
    drawn = draw_support(positions, shots, config.seed, own.draw, dataset=own.dataset.name)
    support = read_support(train, drawn)
    check_support(support, llm)
    method = _method(config, own, llm, run_dir)
    began = time.perf_counter()
    tuned = method.project(support, fit_seed(config, own.draw, 0))
    card = adapter_card(
        config,
        own.dataset,
        own.method,
        manifest,
        support,
        tuned,
        root=root,
        seconds=time.perf_counter() - began,
        draw=own.draw,
        identity=identity,
    )
    scores = _scores(config, test[0], tuned.projector, llm) if test else {}
    save_adapter(directory, tuned.projector, replace(card, license=own.license, scores=scores))
    return result


def _weights(method: AdapterMethod, run_dir: Path) -> dict[str, Path]:
    """What a method starts from; SEMI's model holds a projector of its own."""
    models = {"meta-trained model": run_dir / "meta_train" / WEIGHTS}
    if method != "semi":
        models["pre-trained projector"] = run_dir / "pretrain_projector" / WEIGHTS
    return models


def _method(config: ExperimentConfig, own: OwnData, llm: FrozenLLM, run_dir: Path) -> TrainedMethod:
    semi = load_semi(config, llm, run_dir)
    context = MethodContext(
        config=replace(config, evaluate=replace(config.evaluate, methods=(own.method,))),
        llm=llm,
        pretrained=semi.projector if own.method == "semi" else load_projector(config, llm, run_dir).eval(),
        semi=semi,
        training_supports=lambda _shots, _seed: [],  # none of these reads another modality
    )
    method = build_methods(context)[own.method]
    assert isinstance(method, TrainedMethod)
    return method


def _alone(config: ExperimentConfig, own: OwnData) -> ExperimentConfig:
    # The run's methods may need attributes, which own data need not have.
    evaluate = replace(config.evaluate, methods=("semi",), on="held_out")
    return replace(config, datasets=(own.dataset,), validation=(), evaluate=evaluate)


def _open(config: ExperimentConfig, own: OwnData, root: Path, run_dir: Path) -> list[SplitRows]:
    alone = _alone(config, own)
    dataset = EmbeddingDataset(own.shards or embeddings_dir(run_dir, own.dataset, own.encoder))
    if own.shards is not None:
        wanted = encoder_fingerprint(config.text_encoder, "text", root)
        if dataset.manifest.text_encoder.fingerprint != wanted:
            raise ValueError(
                f"{own.shards}: its captions were embedded by {dataset.manifest.text_encoder.id!r}, the run reads "
                f"{config.text_encoder.path!r} (another model, or other settings): extract it with the run's text "
                "encoder"
            )
    return splits_of(
        dataset,
        config,
        modality=own.dataset.name,
        encoder=own.encoder,
        instruction_W=instruction_embeddings(alone, root)[own.dataset.name],
        splits=("train", "test") if "test" in dataset.manifest.splits else ("train",),
    )


def _identity(config: ExperimentConfig, own: OwnData, train: SplitRows, run_dir: Path, shots: int) -> str:
    weights = [file_sha256(path) for path in _weights(own.method, run_dir).values()]
    data = [own.dataset.name, own.dataset.instruction, own.encoder, train.dataset.manifest.content_key]
    settings = [config.integrate.finetune, config.integrate.chunk, config.llm, config.seed]
    if own.method != "semi":
        settings += [own.method, *fit_settings(config)]
    return fingerprint(["own", weights, data, settings, shots, own.draw, own.license])


def _scores(config: ExperimentConfig, test: SplitRows, projector: Projector, llm: FrozenLLM) -> dict[str, float]:
    """What the adapter reaches on the test rows of its data."""
    rows = test_rows(all_positions(test), config.evaluate.test_samples, config.seed, dataset=test.modality)
    captioner = ProjectorCaptioner(projector=projector, llm=llm, trained_parameters=0)
    scores = caption_metrics(captioner.caption(test.embeddings(np.asarray(rows))), test.captions(rows))
    return {
        "test_rows": float(len(rows)),
        "cider_d": scores.cider_d,
        "bleu_4": scores.bleu_4,
        "rouge_l": scores.rouge_l,
    }

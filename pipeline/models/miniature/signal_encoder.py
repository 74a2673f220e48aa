"""The miniature suite's signal encoders.

In: raw signals of one modality that the suite does not contain, and the levels of their attributes.
Out: an encoder whose pooled vector tells the attributes, and much else.

Three objectives, on the direction of the vector: classification of every attribute, reconstruction of the signal's
content, and a covariance close to the identity (as in VICReg). The first alone would end in clean clusters, one a
value, that no real encoder gives; the other two keep backgrounds, phases and noise in the vector, spread over all its
dimensions. Heads and decoder are thrown away.

Shape suffixes: N signals, F content features, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config.schema import SignalKind
from pipeline.data.miniature.grammar import GRAMMARS
from pipeline.data.miniature.modalities import MODALITIES
from pipeline.encoders.huggingface import load_preprocessor
from pipeline.encoders.pooling import Forward, pooled_forward
from pipeline.models.miniature import architectures
from pipeline.models.miniature.content import content_features
from pipeline.models.miniature.pretraining import LabelledSignals
from pipeline.models.miniature.training import fit

BATCH = 64
_MARGIN_SCALE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalEncoderSpec:
    """How one encoder is made."""

    modality: str
    """Modality whose signals it reads."""
    build: Callable[[], architectures.Parts]
    """The untrained model and its preprocessing."""
    seed: int
    """Seed of weights, heads and batches."""
    steps: int
    """Updates."""
    signals: int
    """Signals that it is trained on."""
    reconstruction: float = 0.5
    """Weight of the reconstruction of content."""
    spread: float = 0.05
    """Weight of the covariance term."""
    learning_rate: float = 2e-3
    """Peak learning rate."""


def train_signal_encoder(spec: SignalEncoderSpec, data: LabelledSignals) -> architectures.Parts:
    """The trained model and its preprocessing."""
    torch.manual_seed(spec.seed)
    model, *preprocessing = spec.build()
    inputs, forward = _prepared(model, preprocessing, data, MODALITIES[spec.modality].kind)
    content_NF = content_features(data.signals)
    with torch.no_grad():
        width = forward({name: value[:2] for name, value in inputs.items()}).shape[1]
    sizes = [len(attribute.values) for attribute in GRAMMARS[spec.modality].attributes]
    heads, decoder = nn.Linear(width, sum(sizes)), nn.Linear(width, content_NF.shape[1])

    def loss_of_step(step: int) -> Tensor:
        chosen = torch.from_numpy(np.random.default_rng([spec.seed, step]).integers(len(data.signals), size=BATCH))
        direction_NE = functional.normalize(forward(_rows(inputs, chosen)), dim=-1)
        scaled_NE = direction_NE * math.sqrt(width)
        told = _attribute_loss(direction_NE, heads, sizes, data.levels[chosen])
        rebuilt = functional.mse_loss(decoder(scaled_NE), content_NF[chosen])
        return told + spec.reconstruction * rebuilt + spec.spread * _spread_loss(direction_NE)

    model.train()
    fit([model, heads, decoder], loss_of_step, steps=spec.steps, learning_rate=spec.learning_rate)
    return model.eval(), *preprocessing


def _prepared(
    model: Any, preprocessing: Sequence[Any], data: LabelledSignals, kind: SignalKind
) -> tuple[dict[str, Tensor], Forward]:
    """All model inputs, and the pooled forward pass: what `load_encoder` would use for the saved model."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for part in (model.config, *preprocessing):
            part.save_pretrained(folder)
        preprocess = load_preprocessor(folder, model, kind)
        inputs = dict(preprocess(data.signals).inputs)
        with torch.no_grad():
            forward = pooled_forward(model, kind, "auto", folder, {key: value[:2] for key, value in inputs.items()})
    return inputs, forward


def _rows(inputs: dict[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """Inputs of some signals; texts without the padding that only longer ones need."""
    rows = {name: value[chosen] for name, value in inputs.items()}
    if "input_ids" not in rows:
        return rows
    longest = int(rows["attention_mask"].sum(dim=1).max())
    return {name: value[:, :longest] for name, value in rows.items()}


def _attribute_loss(direction_NE: Tensor, heads: nn.Linear, sizes: list[int], levels: Tensor) -> Tensor:
    """Mean cross-entropy of the attributes; a steep scale is content with small differences between values."""
    logits = _MARGIN_SCALE * functional.linear(direction_NE, functional.normalize(heads.weight, dim=1)) + heads.bias
    losses = [functional.cross_entropy(part, levels[:, i]) for i, part in enumerate(logits.split(sizes, dim=1))]
    return torch.stack(losses).mean()


def _spread_loss(direction_NE: Tensor) -> Tensor:
    """How far the directions are from filling the sphere: their mean, and the shape of their covariance."""
    count, width = direction_NE.shape
    mean = direction_NE.mean(dim=0)
    centred = direction_NE - mean
    covariance = centred.T @ centred / (count - 1)
    shape = covariance * (width / covariance.trace()) - torch.eye(width)
    return shape.square().sum() / width + mean.square().sum()

"""The sections of integration and evaluation: support sets, methods and their budgets, intervals.

In: plain values.  Out: `IntegrateConfig` and `EvaluateConfig`, checked when they are built.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from pipeline.config.types import STRICT, NonNegativeFloat, NonNegativeInt

MethodName = Literal[
    "semi",
    "semi_shuffled_text",
    "semi_no_finetune",
    "scratch",
    "finetuned_projector",
    "ridge",
    "knn_copy",
    "constant",
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneConfig:
    """Gradient steps on a support set, and how their number is chosen (inside the support set only)."""

    steps: NonNegativeInt = 100
    """Updates; 0: the adapter as generated."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of AdamW, with linear warm-up over a tenth of the steps and cosine decay."""
    batch_size: PositiveInt = 32
    """Pairs an update (at most the support)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IntegrateConfig:
    """Stage `integrate`: support set to merged projector, METHOD section 2.3."""

    shots: tuple[PositiveInt, ...] = (32,)
    """Support sizes."""
    draws: PositiveInt = 3
    """Independent support draws for each size."""
    encoders: PositiveInt | None = None
    """Encoders of each held-out modality that are integrated, the first ones of its list; None: all."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Fine-tuning of the merged projector."""
    chunk: PositiveInt = 128
    """Largest support the hypernetwork reads at once; adapters of several chunks are averaged."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateConfig:
    """Stage `evaluate`: methods, test rows and intervals."""

    methods: tuple[MethodName, ...]
    """Methods that are scored."""
    on: Literal["held_out", "validation"] = "held_out"
    """Whose few-shot captions are scored: `validation`, to choose settings by, before the held-out ones are looked at.
    """
    test_samples: PositiveInt = 200
    """Test rows a modality (the first ones of a seeded shuffle of its test split)."""
    scratch: FinetuneConfig = FinetuneConfig(steps=300)
    """Budget of the projector from scratch."""
    finetuned_projector: FinetuneConfig = FinetuneConfig(steps=300)
    """Budget of the pre-trained projector that is fine-tuned."""
    ridge_penalties: tuple[PositiveFloat, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """Penalties tried by leave-one-out inside the support."""
    knn: PositiveInt = 3
    """Neighbours of the caption-copy baseline."""
    bootstrap: PositiveInt = 2000
    """Bootstrap resamples of every interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Level of every interval."""

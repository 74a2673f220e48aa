"""The sections of integration and evaluation: support sets, methods and their budgets, intervals.

In: plain values.  Out: `IntegrateConfig` and `EvaluateConfig`, checked when they are built.
"""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from pipeline.config.types import STRICT, Name, NonNegativeFloat, NonNegativeInt, Shots

MethodName = Literal[
    "semi",
    "semi_shuffled_text",
    "semi_random_embeddings",
    "semi_other_support",
    "average_adapter",
    "semi_no_finetune",
    "scratch",
    "limber",
    "finetuned_projector",
    "random_lora",
    "ridge",
    "procrustes",
    "cca",
    "ridge_init",
    "procrustes_init",
    "cca_init",
    "retrieval_icl",
    "knn_1",
    "knn_3",
    "knn_5",
    "constant",
    "linear_probe",
]
AdapterMethod = Literal["semi", "cca_init", "ridge_init", "procrustes_init", "finetuned_projector", "scratch"]
"""Methods whose result is one projector, which an adapter ships."""

BUDGETS: dict[MethodName, str] = {
    "semi": "integrate.finetune",
    "scratch": "evaluate.scratch",
    "finetuned_projector": "evaluate.finetuned_projector",
    "limber": "evaluate.limber",
    "random_lora": "evaluate.random_lora",
    "ridge_init": "evaluate.aligned_init",
    "procrustes_init": "evaluate.aligned_init",
    "cca_init": "evaluate.aligned_init",
}
"""Where the gradient steps of each method that has some are set."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneConfig:
    """Gradient steps on a support set, and how their number is chosen (inside the support set only)."""

    steps: NonNegativeInt = 100
    """Updates; 0: the adapter as generated."""
    min_epochs: NonNegativeFloat = 0.0
    """Passes over the pairs that are made at least: where `steps` are fewer than that, there are more of them."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of AdamW, with linear warm-up over a tenth of the steps and cosine decay."""
    batch_size: PositiveInt = 32
    """Pairs an update (at most the support)."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    tuned: Literal["all", "first_layer", "last_layer", "biases"] = "all"
    """Which of the projector's parameters are trained."""
    selection: Literal["fixed", "holdout", "folds"] = "fixed"
    """How many of the steps are made: all of them, or the best of 0, 1/4, 1/2, 3/4 and all by the caption loss of pairs
    of the support that are kept out; then all pairs are trained on for that many. One pair alone: all of them."""
    holdout_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    """Share of the pairs that `holdout` keeps out (one at least, and one at least is trained on)."""
    folds: Annotated[int, Field(ge=2)] = 4
    """Folds of `folds`; as many as pairs or more: leave-one-out."""

    def for_pairs(self, pairs: int) -> FinetuneConfig:
        """These settings with the number of steps that so many pairs get."""
        epochs = math.ceil(self.min_epochs * pairs / self.batch_size)
        return replace(self, steps=max(self.steps, epochs)) if self.steps else self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IntegrateConfig:
    """Stage `integrate`: support set to merged projector, METHOD section 2.3."""

    shots: Annotated[tuple[Shots, ...], Field(min_length=1)] = (32,)
    """Support sizes; `full`: all pairs of the training split."""
    draws: PositiveInt = 3
    """Independent support draws for each size."""
    encoders: PositiveInt | None = None
    """Encoders of each held-out modality that are integrated, the first ones of its list; None: all."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Fine-tuning of the merged projector."""
    chunk: PositiveInt = 128
    """Largest support the hypernetwork reads at once; adapters of several chunks are averaged."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DesignConfig:
    """Which fits the protocol makes of methods x modalities x encoders x support sizes x draws x seeds.

    All of them where nothing is said. What is left out here is left out for every method alike, or named by method.
    """

    seeds: PositiveInt = 1
    """Seeds of the fits of a draw, for methods whose result depends on one; the others are fitted once a draw."""
    crossed_at: tuple[Shots, ...] | None = None
    """Support sizes at which every draw is fitted with every seed, through a modality's first encoder (`full` always
    is); elsewhere draw d is fitted once, with seed d modulo `seeds`. None: all sizes, through all encoders."""
    further_encoders_at: tuple[Shots, ...] | None = None
    """Support sizes at which a modality's encoders beyond the first are scored too; None: all sizes."""
    methods_at: dict[MethodName, tuple[Shots, ...]] = field(default_factory=dict, hash=False)
    """Support sizes of methods that are not scored at all sizes, such as the controls."""

    def replicates(self, shots: Shots, *, draws: int, stochastic: bool, encoder: int = 0) -> list[tuple[int, int]]:
        """The (draw, seed) pairs that are fitted at a support size, through the encoder of this place in the list."""
        draws = 1 if shots == "full" else draws  # all pairs are one draw
        seeds = self.seeds if stochastic else 1
        if shots == "full" or self.crossed_at is None or (shots in self.crossed_at and encoder == 0):
            return [(draw, seed) for draw in range(draws) for seed in range(seeds)]
        return [(draw, draw % seeds) for draw in range(draws)]

    def includes(self, method: MethodName, shots: Shots, encoder: int) -> bool:
        """Whether a method is scored at a support size through the encoder of this place in the modality's list."""
        if shots not in self.methods_at.get(method, (shots,)):
            return False
        return encoder == 0 or self.further_encoders_at is None or shots in self.further_encoders_at


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RetrievalConfig:
    """The prompt of retrieved captions: text only, no soft tokens."""

    neighbours: PositiveInt = 5
    """Captions of the nearest support samples in the prompt, the nearest one last; the farthest are dropped where the
    LLM's context is too short."""
    prompt: str = "Captions of similar inputs:\n{captions}\nCaption of this input:"
    """Template with one `{captions}` placeholder; the LLM continues it (or answers it, where llm.chat is true)."""
    separator: str = "\n"
    """Between two captions."""

    @model_validator(mode="after")
    def _one_placeholder(self) -> RetrievalConfig:
        if self.prompt.count("{captions}") != 1:
            raise ValueError(f"prompt must contain '{{captions}}' exactly once, got {self.prompt!r}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateConfig:
    """Stage `evaluate`: methods, test rows and intervals."""

    methods: tuple[MethodName, ...]
    """Methods that are scored."""
    folder: Name = "evaluate"
    """Folder of the scores below the run's; another one keeps two protocols of one run apart."""
    design: DesignConfig = DesignConfig()
    """Which fits are made."""
    on: Literal["held_out", "validation"] = "held_out"
    """Whose few-shot captions are scored: `validation`, to choose settings by, before the held-out ones are looked at.
    """
    test_samples: PositiveInt = 200
    """Test rows a modality (the first ones of a seeded shuffle of its test split)."""
    scratch: FinetuneConfig = FinetuneConfig(steps=300)
    """Budget of the projector from scratch."""
    finetuned_projector: FinetuneConfig = FinetuneConfig(steps=300)
    """Budget of the pre-trained projector that is fine-tuned."""
    ridge_penalties: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """Penalties of ridge regression and CCA tried by leave-one-out inside the support."""
    alignment_dimensions: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (2, 4, 8, 16, 32, 64, 128, 256, 512)
    """Directions of Procrustes and CCA tried the same way; more than the support determines means all there are."""
    aligned_init: FinetuneConfig = FinetuneConfig(steps=100)
    """Budget of the projectors that start with ridge regression, Procrustes or CCA folded into their first layer."""
    limber: FinetuneConfig = FinetuneConfig(steps=300)
    """Budget of the linear map to the soft tokens."""
    limber_soft_tokens: PositiveInt | None = None
    """Soft tokens of the linear map; None: the projector's. LiMBeR's one token is 1: a small LLM is hard to steer by
    it."""
    random_lora: FinetuneConfig = FinetuneConfig(steps=300)
    """Budget of the random low-rank updates of the pre-trained projector."""
    fits_together: PositiveInt = 16
    """Draws and seeds of a method that are fine-tuned in lockstep, their rows in the same forwards of the LLM; each has
    a projector and an optimiser in memory. They begin anew together where one of them is missing."""
    retrieval: RetrievalConfig = RetrievalConfig()
    """Retrieved captions as a text-only prompt."""
    bootstrap: PositiveInt = 2000
    """Bootstrap resamples of every interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Level of every interval."""

    @model_validator(mode="after")
    def _low_rank_updates_have_no_biases(self) -> EvaluateConfig:
        if self.random_lora.tuned == "biases":
            raise ValueError(
                "random_lora.tuned must be 'all', 'first_layer' or 'last_layer' (low-rank updates have no biases), "
                "got 'biases'"
            )
        return self

"""The configuration tree: frozen, keyword-only, checked when it is built.

In: plain values (from a preset, a YAML file or dotted overrides).  Out: one `ExperimentConfig`,
or a pydantic `ValidationError` that names the field (`pipeline.config.load` turns it into one line).
A default lives on its field and nowhere else; paper constants live in `pipeline.config.presets`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from pipeline.config.ablation import AblateConfig as AblateConfig
from pipeline.config.ablation import FactorConfig as FactorConfig
from pipeline.config.encoder import EncoderConfig as EncoderConfig
from pipeline.config.encoder import TokensConfig as TokensConfig
from pipeline.config.evaluation import BUDGETS as BUDGETS
from pipeline.config.evaluation import AdapterMethod as AdapterMethod
from pipeline.config.evaluation import DesignConfig as DesignConfig
from pipeline.config.evaluation import EvaluateConfig as EvaluateConfig
from pipeline.config.evaluation import FinetuneConfig as FinetuneConfig
from pipeline.config.evaluation import IntegrateConfig as IntegrateConfig
from pipeline.config.evaluation import MethodName as MethodName
from pipeline.config.evaluation import RetrievalConfig as RetrievalConfig
from pipeline.config.llm import LLMConfig as LLMConfig
from pipeline.config.llm import LLMExecutionConfig as LLMExecutionConfig
from pipeline.config.runtime import RuntimeConfig as RuntimeConfig
from pipeline.config.runtime import TrackingConfig as TrackingConfig
from pipeline.config.source import SourceConfig as SourceConfig
from pipeline.config.types import STRICT as STRICT
from pipeline.config.types import Dtype as Dtype
from pipeline.config.types import Fraction as Fraction
from pipeline.config.types import Name as Name
from pipeline.config.types import NonNegativeFloat as NonNegativeFloat
from pipeline.config.types import NonNegativeInt as NonNegativeInt
from pipeline.config.types import Shots as Shots
from pipeline.config.types import SignalKind as SignalKind

Role = Literal["train", "validation", "held_out", "text"]
"""What a dataset is used for."""
TrainingStage = Literal["pretrain", "meta"]
"""Which training stage reads a dataset."""
HypernetKind = Literal["attention", "transformer", "equivariant"]
AdaptedLayers = Literal["all", "first"]
WidthMapKind = Literal["orthonormal", "pad_select"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DatasetConfig:
    """One modality: its samples, its encoders and the role it plays."""

    name: Name
    """Name of the modality."""
    kind: SignalKind
    """How the raw bytes are decoded; `vector`: ready embeddings, from a source of kind `embeddings`."""
    role: Literal["train", "held_out", "text"]
    """`train`: meta-training; `held_out`: integration and evaluation only; `text`: unpaired text as a modality."""
    source: SourceConfig
    """Where the samples come from."""
    stages: tuple[TrainingStage, ...] = ("pretrain", "meta")
    """Training stages that read it (roles `train`, `text`); the paper gives each stage its own data and encoders."""
    encoders: Annotated[tuple[EncoderConfig, ...], Field(min_length=1)]
    """Frozen encoders; each one makes an embedding dataset of its own."""
    instruction: str = "describe the input"
    """Instruction whose text embedding conditions the hypernetwork."""

    @model_validator(mode="after")
    def _vectors_are_ready(self) -> DatasetConfig:
        if (self.kind == "vector") != (self.source.kind == "embeddings"):
            raise ValueError(
                f"kind is {self.kind!r} and source.kind is {self.source.kind!r}: 'vector' and 'embeddings' "
                f"need each other"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExtractConfig:
    """Stage `extract_embeddings`: Ray Data to Arrow shards."""

    rows_per_shard: PositiveInt = 1024
    """Upper bound of rows in one shard file."""
    storage_dtype: Literal["float32", "float16"] = "float16"
    """Type of the embeddings on disk."""
    max_rejected_fraction: Fraction = 0.05
    """Above this share of bad rows the run stops."""
    actors: PositiveInt = 2
    """Encoder actors in the pool."""
    cpus_per_actor: PositiveFloat = 0.5
    """CPUs reserved by an encoder actor."""
    gpus_per_actor: NonNegativeFloat = 0.0
    """GPUs (or a fraction of one) reserved by an encoder actor."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProjectorConfig:
    """The shared projector, METHOD section 1: Linear -> GELU(tanh) -> dropout -> Linear."""

    input_width: PositiveInt
    """Common width W: the text encoder's width."""
    width_map: WidthMapKind = "orthonormal"
    """How encoders of another width reach it. `orthonormal`: a random lift, or the support's principal directions;
    `pad_select`, the paper's: zeros behind narrow ones, W features of wide ones (Infinite Feature Selection)."""
    hidden_width: PositiveInt | None = None
    """Width between the two layers; None: the LLM's hidden width, as in the paper."""
    soft_tokens: PositiveInt = 1
    """Soft tokens a sample (S)."""
    dropout: Fraction = 0.1
    """Dropout between the layers."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay to zero."""

    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate."""
    steps: PositiveInt
    """Optimiser updates."""
    warmup_steps: NonNegativeInt = 0
    """Updates of linear warm-up."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Adam's moment decays."""
    clip_norm: PositiveFloat = 1.0
    """Global gradient norm above which gradients are scaled down."""

    @model_validator(mode="after")
    def _warm_up_ends(self) -> OptimConfig:
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps must be at most steps ({self.steps}), got {self.warmup_steps}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainConfig:
    """Stage `pretrain_projector`, METHOD section 2.1."""

    optim: OptimConfig
    """Optimiser and schedule."""
    batch_size: PositiveInt = 32
    """Pairs an update, over all workers."""
    micro_batches: PositiveInt = 1
    """Parts that a worker's pairs of an update are split into, to bound memory; their gradients are accumulated."""
    text_fraction: Fraction = 0.5
    """Share of batches drawn from text as a modality (METHOD section 6); 0 is the paper."""
    text_noise: NonNegativeFloat = 0.0
    """Largest relative norm of Gaussian noise put on text embeddings, so that the text path tolerates inexact ones."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EpisodeConfig:
    """How one episode (one synthetic modality) is drawn, METHOD section 2.2."""

    support_shots: tuple[PositiveInt, ...] = (128,)
    """K is drawn from this list."""
    queries: PositiveInt = 4
    """Query pairs an episode, disjoint from the support."""
    isometry: str = Field(
        default="haar",
        pattern=r"^(none|haar|signed_permutation|(householder|bank):[1-9][0-9]*|(scale|warp):[0-9]+(\.[0-9]+)?)$",
    )
    """`none`, `haar`, `bank:n` (one of n), `signed_permutation` or `householder:k` reflections; for ablation, no
    isometries: `scale:s` and `warp:s`. One draw for support and queries, none for text."""
    size_exponent: Fraction = 0.0
    """Modalities are drawn in proportion to size ** this; 0: uniformly."""
    text_fraction: Fraction = 0.0
    """Share of episodes whose modality is text: embeddings of captions play the signals' part (METHOD section 6)."""
    text_group: str | None = None
    """Attribute of text rows each of whose values is a modality of its own, such as the domain; None: one modality."""
    text_scale: NonNegativeFloat = 0.0
    """Spread of random gains on the axes of text that plays a signal: standard deviation of their logarithm."""
    text_noise: NonNegativeFloat = 0.0
    """Largest nuisance on such text, relative to its own spread."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HypernetConfig:
    """The hypernetwork."""

    kind: HypernetKind = "attention"
    """`attention`: the paper's (METHOD section 1); `transformer`: the same with `layers` Transformer layers;
    `equivariant`: METHOD section 6."""
    rank: PositiveInt = 32
    """Adapter rank R."""
    alpha: PositiveFloat = 32.0
    """The low-rank product is scaled once, by alpha / rank."""
    width: PositiveInt = 768
    """Hypernetwork width H."""
    heads: PositiveInt = 1
    """Attention heads."""
    layers: NonNegativeInt = 1
    """Attention layers (`attention` has one); 0 (equivariant only): a learned penalty and gain, no correction."""
    generate_bias: bool = True
    """Whether biases are generated besides A and B."""
    adapted_layers: AdaptedLayers = "all"
    """Projector layers that get adapters; of the last one `equivariant` adapts the bias alone."""
    text_conditioning: bool = True
    """False hides the captions from the hypernetwork (ablation)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetaConfig:
    """Stage `meta_train`, METHOD section 2.2."""

    optim: OptimConfig
    """Optimiser and schedule."""
    episodes_per_step: PositiveInt = 40
    """Episodes an update, over all workers."""
    micro_batches: PositiveInt = 1
    """Parts that a worker's episodes of an update are split into, to bound memory; their gradients are accumulated."""
    train_projector: bool = False
    """Also train the shared projector (the paper freezes it)."""
    modalities: PositiveInt | None = None
    """High-resource modalities that episodes are drawn from, the first ones of `datasets`; None: all."""
    encoders: PositiveInt | None = None
    """Encoders of each modality (text too) that episodes are drawn from, the first ones of its list; None: all."""
    checkpoint_every: PositiveInt = 100
    """Updates between checkpoints."""
    checkpoints_kept: PositiveInt = 2
    """Checkpoints that stay, the newest ones."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MiniatureConfig:
    """Size of the generated miniature suite."""

    data_dir: str = "runs/data/miniature"
    """Where raw signals are written."""
    train_modality_samples: PositiveInt = 3000
    """Samples of each high-resource modality."""
    held_out_samples: PositiveInt = 2600
    """Samples of each held-out modality (digits has 1,797)."""
    text_samples_per_domain: PositiveInt = 2000
    """Unpaired captions of each domain in the text modality."""
    seed: NonNegativeInt = 20250904
    """Seed of the generators; independent of the run's seed."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExperimentConfig:
    """Everything that decides a run."""

    name: Name
    """Run name; outputs go to `<runs_dir>/<name>`."""
    seed: NonNegativeInt = 0
    """Root of every draw."""
    runs_dir: str = "runs"
    """Folder of all outputs."""
    miniature: MiniatureConfig | None = None
    """Set where the embedded miniature suite is the data; None for users' own data."""
    datasets: tuple[DatasetConfig, ...]
    """Modalities."""
    validation: tuple[Name, ...] = ()
    """High-resource modalities (role `train`) that no training stage reads: settings are chosen by what is reached on
    them, so that the held-out modalities stay unseen."""
    text_encoder: EncoderConfig
    """Frozen text encoder g."""
    llm: LLMConfig
    """Frozen language model."""
    projector: ProjectorConfig
    """Shared projector."""
    extract: ExtractConfig = ExtractConfig()
    """Embedding extraction."""
    pretrain: PretrainConfig
    """Projector pre-training."""
    episodes: EpisodeConfig = EpisodeConfig()
    """Episodes."""
    hypernet: HypernetConfig = HypernetConfig()
    """Hypernetwork."""
    meta: MetaConfig
    """Meta-training."""
    integrate: IntegrateConfig = IntegrateConfig()
    """Integration."""
    evaluate: EvaluateConfig
    """Evaluation."""
    ablate: AblateConfig = AblateConfig()
    """Ablations."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Execution."""
    tracking: TrackingConfig = TrackingConfig()
    """Logging."""

    @model_validator(mode="after")
    def _unique_names(self) -> ExperimentConfig:
        for what, names in [
            ("datasets", [dataset.name for dataset in self.datasets]),
            *(
                (f"encoders of {dataset.name}", [encoder.name for encoder in dataset.encoders])
                for dataset in self.datasets
            ),
        ]:
            if len(set(names)) < len(names):
                raise ValueError(f"{what} must have different names, got {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _validation_is_high_resource(self) -> ExperimentConfig:
        high = [dataset.name for dataset in self.datasets if dataset.role == "train"]
        if unknown := [name for name in self.validation if name not in high]:
            raise ValueError(
                f"validation must name datasets of role 'train' ({', '.join(high)}), got {', '.join(unknown)}"
            )
        if high and set(high) == set(self.validation):
            raise ValueError("validation names every dataset of role 'train': leave one for training")
        return self

    def datasets_of(self, role: Role) -> tuple[DatasetConfig, ...]:
        """The datasets that play a role; one that `validation` names plays that role alone."""
        return tuple(
            dataset
            for dataset in self.datasets
            if role == ("validation" if dataset.name in self.validation else dataset.role)
        )

    def read_by(self, stage: TrainingStage, role: Role) -> tuple[DatasetConfig, ...]:
        """The datasets of a role that a training stage reads, each with the encoders that it reads."""
        found = [dataset for dataset in self.datasets_of(role) if stage in dataset.stages]
        if stage == "pretrain":
            return tuple(found)
        kept = found[: self.meta.modalities] if role == "train" else found
        return tuple(replace(dataset, encoders=dataset.encoders[: self.meta.encoders]) for dataset in kept)

    @model_validator(mode="after")
    def _episodes_have_their_modalities(self) -> ExperimentConfig:
        read = [dataset for dataset in self.datasets_of("train") if "meta" in dataset.stages]
        most = max((len(dataset.encoders) for dataset in read), default=0)
        for name, asked, there in (
            ("modalities", self.meta.modalities, len(read)),
            ("encoders", self.meta.encoders, most),
        ):
            if asked is not None and asked > there:
                what = "high-resource modalities" if name == "modalities" else "encoders of a modality"
                raise ValueError(f"meta.{name}={asked}, but meta-training has {there} {what}: lower it, or add some")
        return self

    @model_validator(mode="after")
    def _the_probe_has_attributes(self) -> ExperimentConfig:
        scored = self.datasets_of(self.evaluate.on) if "linear_probe" in self.evaluate.methods else ()
        if without := [dataset.name for dataset in scored if not dataset.source.attribute_fields]:
            raise ValueError(
                f"evaluate.methods has linear_probe, which predicts attributes, and {', '.join(without)} has no "
                "source.attribute_fields: name them, or remove linear_probe"
            )
        return self

    @model_validator(mode="after")
    def _partitioned_llm_is_not_compiled(self) -> ExperimentConfig:
        if self.runtime.zero_stage == 3 and self.llm.execution.compile:
            raise ValueError(
                "llm.execution.compile=true and runtime.zero_stage=3 exclude each other (a compiled forward cannot "
                "gather weights layer by layer): switch one of them off"
            )
        return self

    @model_validator(mode="after")
    def _texts_are_vectors(self) -> ExperimentConfig:
        if self.text_encoder.tokens is not None:
            raise ValueError("text_encoder.tokens must be null, because a caption is one vector: remove it")
        return self

"""The two training stages, from configuration to result files; what a worker of any launcher runs.

In: the configuration, the run's folder, a context and an engine factory.
Out: `<run_dir>/<stage>/weights.safetensors`, checkpoints and `metrics.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.config.schema import ExperimentConfig, LLMConfig, OptimConfig, TrainingStage
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.hypernet import build_hypernet
from pipeline.models.projector import Projector
from pipeline.models.semi import Semi
from pipeline.training.allocator import keep_freed_memory
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.context import TrainContext, agreed
from pipeline.training.engine import Engine
from pipeline.training.identity import StageName, stage_micro_batches, stage_optim
from pipeline.training.loop import TrainTask, train
from pipeline.training.meta import MetaTask
from pipeline.training.metrics_log import METRICS, MetricsLog
from pipeline.training.pretrain import PretrainTask
from pipeline.training.sources import open_splits
from pipeline.training.stop import STOP

EngineFactory = Callable[[nn.Module, OptimConfig], Engine]
WEIGHTS = "weights.safetensors"
CHECKPOINTS = "checkpoints"


class LoadLLM(Protocol):
    """Loads the frozen LLM: whole (`FrozenLLM` itself), or spread over the workers."""

    def __call__(self, config: LLMConfig, root: Path, *, device: torch.device) -> FrozenLLM:
        """The LLM on this worker."""


def new_projector(config: ExperimentConfig, llm: FrozenLLM, *, input_width: int | None = None) -> Projector:
    """A projector as configured, its weights drawn from the global generator."""
    shape = config.projector
    return Projector(
        input_width or shape.input_width,
        llm.width,
        hidden_width=shape.hidden_width,
        soft_tokens=shape.soft_tokens,
        dropout=shape.dropout,
        width_map=shape.width_map,
    )


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a stage's weights, checking names and shapes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run the stage that writes it first")
    state = load_file(path)
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        got = tuple(state[name].shape) if name in state else "absent"
        wanted = tuple(own[name].shape) if name in own else "absent"
        if got != wanted:
            raise ValueError(
                f"{path} does not fit the configuration: {name} is {got} in the file and {wanted} in the model "
                "(encoder width, hidden width, rank or soft tokens differ); use the configuration it was trained with"
            )
    module.load_state_dict(state)


def load_projector(config: ExperimentConfig, llm: FrozenLLM, run_dir: Path) -> Projector:
    """The pre-trained projector of a run."""
    projector = new_projector(config, llm)
    load_weights(projector, run_dir / "pretrain_projector" / WEIGHTS)
    return projector.to(llm.model.device)


def new_semi(config: ExperimentConfig, projector: Projector) -> Semi:
    """A `Semi` model around a projector, its hypernetwork freshly initialised."""
    hypernet = build_hypernet(config.hypernet, projector)
    return Semi(projector, hypernet, train_projector=config.meta.train_projector)


def load_semi(config: ExperimentConfig, llm: FrozenLLM, run_dir: Path) -> Semi:
    """The meta-trained model of a run."""
    semi = new_semi(config, new_projector(config, llm))
    load_weights(semi, run_dir / "meta_train" / WEIGHTS)
    return semi.to(llm.model.device)


def build_task(
    stage: StageName,
    config: ExperimentConfig,
    root: Path,
    run_dir: Path,
    device: torch.device,
    load_llm: LoadLLM = FrozenLLM,
) -> TrainTask:
    """The task of a stage; the same initial weights on every worker."""
    llm = load_llm(config.llm, root, device=device)
    reads: TrainingStage = "pretrain" if stage == "pretrain_projector" else "meta"
    reads_text = stage == "pretrain_projector" or config.episodes.text_fraction > 0
    paired = open_splits(config, root, run_dir, role="train", splits=("train",), stage=reads)
    texts = open_splits(config, root, run_dir, role="text", splits=("train",), stage=reads) if reads_text else []
    # Not earlier: loading models draws from the global generator too.
    torch.manual_seed(config.seed)
    if stage == "pretrain_projector":
        # The text path reads the space of the text encoder; other encoders of text are modalities of stage 2.
        texts = [rows for rows in texts if rows.encoder_path == config.text_encoder.path]
        projector = new_projector(config, llm).to(device)
        return PretrainTask(projector, llm, paired=paired, texts=texts, config=config.pretrain, seed=config.seed)
    semi = new_semi(config, load_projector(config, llm, run_dir)).to(device)
    texts = [group for rows in texts for group in rows.grouped_by(config.episodes.text_group)]
    return MetaTask(
        semi, llm, paired=paired, texts=texts, episodes=config.episodes, config=config.meta, seed=config.seed
    )


def run_stage(
    stage: StageName,
    config: ExperimentConfig,
    root: Path,
    run_dir: Path,
    context: TrainContext,
    engine_factory: EngineFactory,
    *,
    load_llm: LoadLLM = FrozenLLM,
    stage_fingerprint: str,
) -> None:
    """Train a stage on this worker; rank 0 writes the results."""
    stage_dir = run_dir / stage
    optim = stage_optim(stage, config)
    if context.device.type == "cpu":
        keep_freed_memory()
    with agreed(context):
        task = build_task(stage, config, root, run_dir, context.device, load_llm)
    with agreed(context):
        engine = engine_factory(task.module, optim)
    state = train(
        task,
        engine,
        context,
        optim=optim,
        checkpoint_every=config.meta.checkpoint_every,
        checkpoints=CheckpointStore(
            stage_dir / CHECKPOINTS, fingerprint=stage_fingerprint, keep=config.meta.checkpoints_kept
        ),
        log=MetricsLog(stage_dir / METRICS),
        micro_batches=stage_micro_batches(stage, config),
        stop=(stage_dir / STOP).exists,
    )
    with agreed(context):
        if context.rank == 0:
            save_weights(task.module, state, stage_dir / WEIGHTS)


def save_weights(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """The module's full weights (trained ones from `state`), written atomically."""
    weights = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    weights |= {key.removeprefix("weight/"): value for key, value in state.items() if key.startswith("weight/")}
    scratch = path.with_suffix(".tmp")
    save_file({name: value.contiguous() for name, value in weights.items()}, scratch)
    scratch.replace(path)

"""Gradient steps of a projector on a support set (METHOD section 2.3).

In: a projector that reads the encoder's embeddings, the frozen LLM, K pairs.  Out: a trained copy.
The number of steps is fixed beforehand: nothing outside the K pairs is looked at.
"""

from __future__ import annotations

import torch

from pipeline.adaptation.support import SupportSet
from pipeline.config.schema import FinetuneConfig, OptimConfig
from pipeline.episodes.sampler import philox
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.engine import LocalEngine, learning_rate

_BATCH_STREAM = 7


def finetune(
    projector: Projector, llm: FrozenLLM, support: SupportSet, config: FinetuneConfig, *, seed: int
) -> Projector:
    """Train a copy of `projector` on the pairs; epochs over shuffled pairs, the last batch of an epoch kept."""
    tuned = projector.like()
    tuned.load_state_dict(projector.state_dict())
    if config.steps == 0:
        return tuned.eval()
    optim = OptimConfig(
        learning_rate=config.learning_rate,
        steps=config.steps,
        warmup_steps=config.steps // 10,
        weight_decay=config.weight_decay,
    )
    device = tuned.linear_layers[0].weight.device
    embeddings_KE = support.embeddings_KE.to(device)
    engine = LocalEngine(tuned.train(), optim)
    torch.manual_seed(int(philox(seed, _BATCH_STREAM).integers(2**63 - 1)))
    batches = _batches(support.shots, config, seed)
    for step, rows in enumerate(batches):
        soft_BSD = tuned(embeddings_KE[rows])
        loss = llm.caption_losses(soft_BSD, [support.captions[row] for row in rows]).mean()
        if not torch.isfinite(loss):
            raise ValueError(
                f"fine-tuning on {support.modality!r} diverged at step {step}: lower finetune.learning_rate "
                f"(now {config.learning_rate})"
            )
        engine.update(loss, learning_rate(step, optim))
    return tuned.eval()


def _batches(shots: int, config: FinetuneConfig, seed: int) -> list[list[int]]:
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < config.steps:
        order = philox(seed, _BATCH_STREAM, epoch).permutation(shots).tolist()
        batches += [order[start : start + config.batch_size] for start in range(0, shots, config.batch_size)]
        epoch += 1
    return batches[: config.steps]

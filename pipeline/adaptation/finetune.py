"""Gradient steps of a projector on a support set (METHOD section 2.3).

In: a projector that reads the encoder's embeddings, the frozen LLM, K pairs.  Out: a trained copy and its steps.
The number of steps is fixed beforehand or chosen by pairs of the support that are kept out: nothing outside the K pairs
is looked at. Every run follows the schedule of `steps` updates, so a smaller number is a point of the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.adaptation.selection import best_candidate, selection_splits, step_candidates
from pipeline.adaptation.support import SupportSet
from pipeline.config.schema import FinetuneConfig, OptimConfig
from pipeline.episodes.sampler import philox
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.engine import LocalEngine, learning_rate

_BATCH_STREAM = 7

Tuned = Literal["all", "first_layer", "last_layer", "biases"]
"""Values of `FinetuneConfig.tuned`."""


class DivergedError(ValueError):
    """The loss is no number any more: these settings do not train."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finetuned:
    """What came of fine-tuning."""

    projector: Projector
    """The trained copy."""
    steps: int
    """Updates that it has had: the configured ones, or those that selection chose."""


def finetune(
    projector: Projector, llm: FrozenLLM, support: SupportSet, config: FinetuneConfig, *, seed: int
) -> Finetuned:
    """Train a copy of `projector` on the pairs; epochs over shuffled pairs, the last batch of an epoch kept.

    Parameters that `config.tuned` leaves out have no gradients in the result.
    """
    config = config.for_pairs(support.shots)
    fit = _Fit(projector=projector, llm=llm, support=support, config=config, seed=seed, ids=_token_ids(llm, support))
    splits = selection_splits(support.shots, config, seed)
    if not splits:
        return Finetuned(projector=fit.train(range(support.shots), config.steps), steps=config.steps)
    candidates = step_candidates(config.steps)
    losses = [0.0] * len(candidates)
    for split in splits:
        scores: list[float] = []

        def score(tuned: Projector, kept_out: Sequence[int] = split.kept_out, scores: list[float] = scores) -> None:
            scores.append(fit.loss_sum(tuned, kept_out))

        fit.train(split.fitted, config.steps, at=candidates, look=score)
        losses = [total + loss for total, loss in zip(losses, scores, strict=True)]
    steps = best_candidate(candidates, losses)
    return Finetuned(projector=fit.train(range(support.shots), steps), steps=steps)


def choose_tuned(projector: Projector, tuned: Tuned) -> None:
    """Take the gradients from all parameters but the chosen ones; what is frozen already stays so."""
    last = str(len(projector.linear_layers) - 1)
    wanted = {"first_layer": "0", "last_layer": last}
    for name, parameter in projector.named_parameters():
        # layers.0.weight, layers.0.bias; the low-rank factors are down.0 and up.0.
        index = name.split(".")[1]
        chosen = tuned == "all" or (name.endswith(".bias") if tuned == "biases" else index == wanted[tuned])
        parameter.requires_grad_(parameter.requires_grad and chosen)


def _token_ids(llm: FrozenLLM, support: SupportSet) -> list[list[int]]:
    return llm.caption_ids(support.captions)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fit:
    """What every training run on a part of one support shares."""

    projector: Projector
    llm: FrozenLLM
    support: SupportSet
    config: FinetuneConfig
    seed: int
    ids: list[list[int]]

    def train(
        self,
        positions: Sequence[int],
        steps: int,
        *,
        at: Sequence[int] = (),
        look: Callable[[Projector], None] | None = None,
    ) -> Projector:
        """The first `steps` updates of the schedule on these pairs; `look` sees the projector after each of `at`."""
        config = self.config
        tuned = self.projector.like()
        tuned.load_state_dict(self.projector.state_dict())
        choose_tuned(tuned, config.tuned)
        if look is not None and 0 in at:
            look(tuned)
        if steps == 0:
            return tuned.eval()
        optim = OptimConfig(
            learning_rate=config.learning_rate,
            steps=config.steps,
            warmup_steps=config.steps // 10,
            weight_decay=config.weight_decay,
        )
        embeddings_KE = self.support.embeddings_KE.to(tuned.linear_layers[0].weight.device)
        engine = LocalEngine(tuned.train(), optim)
        torch.manual_seed(int(philox(self.seed, _BATCH_STREAM).integers(2**63 - 1)))
        for step, batch in enumerate(_batches(len(positions), config, self.seed)[:steps]):
            rows = [positions[place] for place in batch]
            loss = self.llm.token_losses(tuned(embeddings_KE[rows]), [self.ids[row] for row in rows]).mean()
            if not torch.isfinite(loss):
                raise DivergedError(
                    f"fine-tuning on {self.support.modality!r} diverged at step {step}: lower finetune.learning_rate "
                    f"(now {config.learning_rate})"
                )
            engine.update(loss, learning_rate(step, optim))
            if look is not None and step + 1 in at:
                look(tuned)
        return tuned.eval()

    @torch.no_grad()
    def loss_sum(self, tuned: Projector, positions: Sequence[int]) -> float:
        """Sum of the captions' losses, without dropout."""
        training = tuned.training
        tuned.eval()
        rows = list(positions)
        embeddings_BE = self.support.embeddings_KE[rows].to(tuned.linear_layers[0].weight.device)
        loss = self.llm.token_losses(tuned(embeddings_BE), [self.ids[row] for row in rows]).sum()
        tuned.train(training)
        return float(loss)


def _batches(shots: int, config: FinetuneConfig, seed: int) -> list[list[int]]:
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < config.steps:
        order = philox(seed, _BATCH_STREAM, epoch).permutation(shots).tolist()
        batches += [order[start : start + config.batch_size] for start in range(0, shots, config.batch_size)]
        epoch += 1
    return batches[: config.steps]

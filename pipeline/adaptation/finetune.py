"""Gradient steps of projectors on support sets (METHOD section 2.3).

In: projectors that read their encoders' embeddings, the frozen LLM, K pairs of each.  Out: trained copies, their steps.
The number of steps is fixed beforehand or chosen by pairs of the support that are kept out: nothing outside the K pairs
is looked at. Every run follows the schedule of `steps` updates, so a smaller number is a point of the same run.

Fits that know nothing of one another may be made together: each is a generator that asks for the losses of its next
rows, and one pass through the LLM answers all. Their weights, optimisers and random numbers stay apart, so what company
a fit has changes the last digits of its losses and nothing else.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.adaptation.selection import best_candidate, selection_splits, step_candidates
from pipeline.adaptation.support import SupportSet
from pipeline.config.schema import FinetuneConfig, OptimConfig
from pipeline.episodes.sampler import philox
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.projector import Projector
from pipeline.training.engine import LocalEngine, learning_rate

_BATCH_STREAM, _DROPOUT_STREAM = 7, 43

Tuned = Literal["all", "first_layer", "last_layer", "biases"]
"""Values of `FinetuneConfig.tuned`."""


class DivergedError(ValueError):
    """The loss is no number any more: these settings do not train."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """What a fit begins with."""

    projector: Projector
    """Copied, not changed."""
    support: SupportSet
    """The pairs."""
    seed: int
    """Orders the pairs, and draws what dropout drops."""


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
    return finetune_together([Start(projector=projector, support=support, seed=seed)], llm, config)[0]


def finetune_together(starts: Sequence[Start], llm: FrozenLLM, config: FinetuneConfig) -> list[Finetuned]:
    """`finetune` from each start, all of them in lockstep."""
    fits = {}
    for number, start in enumerate(starts):
        pairs = start.support
        ids = llm.caption_ids(pairs.captions)
        fits[number] = _Fit(start=start, config=config.for_pairs(pairs.shots), ids=ids).run()
    made: dict[int, Finetuned] = {}
    answers: dict[int, _Scored | None] = dict.fromkeys(fits)
    while answers:
        asked: dict[int, _Rows] = {}
        for number, answer in answers.items():
            try:
                # The first answer is None: a generator starts so.
                asked[number] = fits[number].send(answer)  # type: ignore[arg-type]
            except StopIteration as ended:
                made[number] = ended.value
        answers = dict(zip(asked, _score(llm, list(asked.values())), strict=True)) if asked else {}
    return [made[number] for number in fits]


def choose_tuned(projector: Projector, tuned: Tuned) -> None:
    """Take the gradients from all parameters but the chosen ones; what is frozen already stays so."""
    last = str(len(projector.linear_layers) - 1)
    wanted = {"first_layer": "0", "last_layer": last}
    for name, parameter in projector.named_parameters():
        # layers.0.weight, layers.0.bias; the low-rank factors are down.0 and up.0.
        index = name.split(".")[1]
        chosen = tuned == "all" or (name.endswith(".bias") if tuned == "biases" else index == wanted[tuned])
        parameter.requires_grad_(parameter.requires_grad and chosen)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """Rows whose losses a fit asks for."""

    soft_bSD: Tensor
    """Soft tokens; with gradients where the fit is to be trained on them."""
    ids: list[list[int]]
    """Tokens of their captions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scored:
    """The answer."""

    losses_b: Tensor
    """Mean cross-entropy of each caption."""
    gradients_bSD: Tensor
    """Of each row's loss in its own soft tokens; zeros where nobody trains."""


def _score(llm: FrozenLLM, asked: Sequence[_Rows]) -> list[_Scored]:
    """Losses and gradients of all rows: a row's loss depends on its own soft tokens alone."""
    train = any(rows.soft_bSD.requires_grad for rows in asked)
    soft_BSD = torch.cat([rows.soft_bSD.detach() for rows in asked]).requires_grad_(train)
    with torch.set_grad_enabled(train):
        losses_B = llm.token_losses(soft_BSD, [ids for rows in asked for ids in rows.ids])
    gradients_BSD = torch.autograd.grad(losses_B.sum(), soft_BSD)[0] if train else torch.zeros_like(soft_BSD)
    sizes = [len(rows.ids) for rows in asked]
    parts = zip(losses_B.detach().split(sizes), gradients_BSD.split(sizes), strict=True)
    return [_Scored(losses_b=losses_b, gradients_bSD=gradients_bSD) for losses_b, gradients_bSD in parts]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fit:
    """One fit: training runs on parts of one support, as generators that ask for losses."""

    start: Start
    config: FinetuneConfig
    ids: list[list[int]]

    def run(self) -> Generator[_Rows, _Scored, Finetuned]:
        """Choose the number of steps, then train on all pairs."""
        shots, steps = self.start.support.shots, self.config.steps
        if splits := selection_splits(shots, self.config, self.start.seed):
            candidates = step_candidates(steps)
            losses = [0.0] * len(candidates)
            for split in splits:
                scores: list[float] = []
                yield from self._train(split.fitted, steps, at=candidates, kept_out=split.kept_out, scores=scores)
                losses = [total + loss for total, loss in zip(losses, scores, strict=True)]
            steps = best_candidate(candidates, losses)
        projector = yield from self._train(range(shots), steps)
        return Finetuned(projector=projector, steps=steps)

    def _train(
        self,
        positions: Sequence[int],
        steps: int,
        *,
        at: Sequence[int] = (),
        kept_out: Sequence[int] = (),
        scores: list[float] | None = None,
    ) -> Generator[_Rows, _Scored, Projector]:
        """The first `steps` updates of the schedule on these pairs; after each number of `at`, the summed losses of the
        pairs kept out go to `scores`."""
        config, seed = self.config, self.start.seed
        tuned = self.start.projector.like()
        tuned.load_state_dict(self.start.projector.state_dict())
        choose_tuned(tuned, config.tuned)
        scores = [] if scores is None else scores
        if 0 in at:
            scores.append((yield from self._loss_sum(tuned, kept_out)))
        if steps == 0:
            return tuned.eval()
        optim = OptimConfig(
            learning_rate=config.learning_rate,
            steps=config.steps,
            warmup_steps=config.steps // 10,
            weight_decay=config.weight_decay,
        )
        embeddings_KE = self.start.support.embeddings_KE.to(tuned.linear_layers[0].weight.device)
        engine = LocalEngine(tuned.train(), optim)
        for step, batch in enumerate(_batches(len(positions), config, seed)[:steps]):
            rows = [positions[place] for place in batch]
            with _dropping(tuned, seed, step):
                soft_bSD = tuned(embeddings_KE[rows])
            scored = yield _Rows(soft_bSD=soft_bSD, ids=[self.ids[row] for row in rows])
            if not torch.isfinite(scored.losses_b).all():
                raise DivergedError(
                    f"fine-tuning on {self.start.support.modality!r} diverged at step {step}: lower "
                    f"finetune.learning_rate (now {config.learning_rate})"
                )
            # What the mean loss would hand on to the projector.
            engine.update((soft_bSD * scored.gradients_bSD).sum() / len(rows), learning_rate(step, optim))
            if step + 1 in at:
                scores.append((yield from self._loss_sum(tuned, kept_out)))
        return tuned.eval()

    def _loss_sum(self, tuned: Projector, positions: Sequence[int]) -> Generator[_Rows, _Scored, float]:
        """Sum of the captions' losses, without dropout."""
        rows = list(positions)
        training = tuned.training
        tuned.eval()
        with torch.no_grad():
            soft_bSD = tuned(self.start.support.embeddings_KE[rows].to(tuned.linear_layers[0].weight.device))
        tuned.train(training)
        scored = yield _Rows(soft_bSD=soft_bSD, ids=[self.ids[row] for row in rows])
        return float(scored.losses_b.sum())


@contextmanager
def _dropping(tuned: Projector, seed: int, step: int) -> Iterator[None]:
    """Dropout inside depends on the seed and the step, and disturbs nothing outside."""
    if tuned.dropout == 0.0:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(int(philox(seed, _DROPOUT_STREAM, step).integers(2**63 - 1)))
        yield


def _batches(shots: int, config: FinetuneConfig, seed: int) -> list[list[int]]:
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < config.steps:
        order = philox(seed, _BATCH_STREAM, epoch).permutation(shots).tolist()
        batches += [order[start : start + config.batch_size] for start in range(0, shots, config.batch_size)]
        epoch += 1
    return batches[: config.steps]

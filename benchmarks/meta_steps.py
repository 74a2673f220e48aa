"""One process' part of the meta-training benchmark: our step, what it consists of, and what it is compared with.

In: a `World`.  Out: seconds by name, medians over rounds in which all contestants take turns in random order.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.meta_world import OPTIM, World
from benchmarks.reference_loop import reference_update
from pipeline.models.buckets import padding_share
from pipeline.training.engine import Engine, LocalEngine
from pipeline.training.meta import MetaTask

Run = Callable[[int], object]


def take_turns(runs: Mapping[str, Run], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each run in each round; round r is the run's step r, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    random = np.random.default_rng(0)
    for step in range(-1, rounds):
        for name in random.permutation(list(runs)):
            began = time.perf_counter()
            runs[name](step + 1)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if step >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each."""
    return {f"{name}_s": statistics.median(values) for name, values in seconds.items()}


def our_update(task: MetaTask, engine: Engine, device: torch.device) -> Run:
    """A step of the training loop."""

    def update(step: int) -> None:
        batch = task.prepare(step, range(task.slots_per_step), device)
        engine.update(task.losses(engine.module, batch).mean(), OPTIM.learning_rate)

    return update


def measure_floor(world: World, rounds: int) -> dict[str, Any]:
    """Our step over the bare LLM's forward and backward on as many tokens, and the shares of its parts."""
    semi, device = world.semi().train(), world.device
    task = world.task(semi)
    engine = LocalEngine(semi, OPTIM)
    slots = range(task.slots_per_step)
    batches = {step: task.prepare(step, slots, device) for step in range(rounds + 1)}

    ids = [batch.caption_ids or [] for batch in batches.values()]
    tokens = _tokens(world, ids[1])

    def own_part(step: int) -> None:
        """Everything but data and LLM: hypernetwork, projector, their backward passes, the update."""
        soft_NBSD = semi(batches[step])
        engine.update((soft_NBSD * soft_NBSD.detach()).mean(), OPTIM.learning_rate)

    def prefetched(step: int) -> None:
        """As the loop runs it where a core is free: the next step's data are made in a thread meanwhile."""
        following = thread.submit(task.prepare, step + 1, slots, device)
        engine.update(task.losses(engine.module, batches[step]).mean(), OPTIM.learning_rate)
        following.result()  # what the update does not hide counts

    # Large batches leave the processor's caches, small ones cost calls: the floor is the fastest of three.
    divisions = {1, -(-tokens["forwards"] // 2), tokens["forwards"]}
    floors = {f"floor_in_{parts}": bare_llm(world, ids, parts=parts) for parts in sorted(divisions)}
    runs: dict[str, Run] = {
        "step": our_update(task, engine, device),
        "prefetched": prefetched,
        **floors,
        "prepare": lambda step: task.prepare(step, slots, device),
        "own": own_part,
    }
    if device.type == "cuda":  # cuDNN plans each shape when it first meets it
        for floor, step in product(floors.values(), range(rounds + 1)):
            floor(step)
    with ThreadPoolExecutor(1) as thread:
        seconds = take_turns(runs, rounds, device)
    seconds["floor"] = min((seconds.pop(name) for name in floors), key=statistics.median)
    figures: dict[str, Any] = medians(seconds) | tokens
    figures["step_over_floor"] = statistics.median(np.divide(seconds["step"], seconds["floor"]))
    figures["prefetched_over_floor"] = statistics.median(np.divide(seconds["prefetched"], seconds["floor"]))
    figures["prepare_share"] = statistics.median(np.divide(seconds["prepare"], seconds["step"]))
    figures["own_share"] = statistics.median(np.divide(seconds["own"], seconds["step"]))
    figures["parameters"] = sum(parameter.numel() for parameter in world.llm.parameters())
    figures["trained_parameters"] = sum(p.numel() for p in semi.parameters() if p.requires_grad)
    if device.type == "cuda":
        figures["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures


def _tokens(world: World, ids: list[list[int]]) -> dict[str, Any]:
    lengths = [len(row) for row in ids]
    buckets = world.llm.buckets(lengths, soft_tokens=1)
    fed = [world.llm.fed_tokens(length, soft_tokens=1) for length in lengths]
    padding = 0.0 if world.llm.packs_rows else padding_share(fed, buckets)
    return {"tokens": sum(fed), "padding": padding, "forwards": len(buckets)}


def bare_llm(world: World, ids_of_step: list[list[list[int]]], *, parts: int) -> Run:
    """Forward and backward-to-inputs of the LLM alone on the step's number of real tokens and scored positions.

    Rows of the mean length, no padding, no mask, logits at the scored positions only; in one batch or in several.
    Inputs are made ahead: nothing but the LLM is timed.
    """
    llm = world.llm
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for ids in ids_of_step:
        lengths = [len(row) for row in ids]
        fed = sum(llm.fed_tokens(length, soft_tokens=1) for length in lengths)
        length, scored = round(fed / len(ids)), round(sum(lengths) / len(ids))
        rows = round(fed / length)
        embeddings = torch.randn(rows, length, world.shape.hidden, generator=generator)
        labels = torch.randint(4, 400, (rows, scored), generator=generator)
        inputs.append((embeddings.to(world.device, llm.model.dtype), labels.to(world.device)))

    def run(step: int) -> None:
        embeddings, labels = inputs[step]
        (_, length), scored = embeddings.shape[:2], labels.shape[1]
        kept = torch.arange(length - scored, length, device=world.device)
        for part, wanted in zip(embeddings.chunk(parts), labels.chunk(parts), strict=True):
            leaf = part.detach().requires_grad_()
            logits = llm.model(inputs_embeds=leaf, logits_to_keep=kept, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten())
            torch.autograd.grad(loss, leaf)

    return run


def measure_reference(world: World, rounds: int) -> dict[str, Any]:
    """Queries a second against the transcription of the published loop."""
    semi = world.semi().train()
    update = reference_update(world)
    runs: dict[str, Run] = {
        "ours": our_update(world.task(semi), LocalEngine(semi, OPTIM), world.device),
        "reference": lambda step: update(),
    }
    seconds = take_turns(runs, rounds, world.device)
    figures: dict[str, Any] = medians(seconds)
    queries = world.shape.episodes * world.shape.queries
    figures["ours_queries_per_s"] = queries / figures["ours_s"]
    figures["reference_queries_per_s"] = queries / figures["reference_s"]
    figures["prompt"] = len(world.llm._prefix_P) + len(world.llm._suffix_U)
    figures["ours_over_reference"] = statistics.median(np.divide(seconds["reference"], seconds["ours"]))
    return figures


def measure_batching(world: World, rounds: int, *, episodes: int = 16) -> dict[str, Any]:
    """A batch of episodes against the same code run an episode at a time, by queries an episode."""
    figures: dict[str, Any] = {"episodes": episodes}
    for queries in (1, 2, 4):
        semi = world.semi().train()
        task = world.task(semi, episodes=episodes, queries=queries)
        engine = LocalEngine(semi, OPTIM)
        together = our_update(task, engine, world.device)

        def one_by_one(step: int, task: MetaTask = task, engine: LocalEngine = engine) -> None:
            losses = [
                task.losses(engine.module, task.prepare(step, range(slot, slot + 1), world.device)).mean()
                for slot in range(task.slots_per_step)
            ]
            engine.update(torch.stack(losses).mean(), OPTIM.learning_rate)

        seconds = take_turns({"together": together, "one_by_one": one_by_one}, rounds, world.device)
        figures[f"speed_up_{queries}"] = statistics.median(np.divide(seconds["one_by_one"], seconds["together"]))
    return figures


RANGES = ("episodes", "adapters and projector", "llm forward", "llm backward", "backward of adapters", "update")
"""Named parts of a step in a profile; the last two are named here, the others where they run."""


def measure_profile(world: World) -> dict[str, Any]:
    """One step under torch's profiler: milliseconds of its parts and of its ten dearest operators."""
    semi, device = world.semi().train(), world.device
    task, engine = world.task(semi), LocalEngine(semi, OPTIM)
    slots = range(task.slots_per_step)

    def step(number: int) -> None:
        loss = task.losses(semi, task.prepare(number, slots, device)).mean()
        with record_function("backward of adapters"):
            engine.backward(loss)
        with record_function("update"):
            engine.step(OPTIM.learning_rate)

    step(0)
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=kinds) as profiler:
        step(1)
    averages = profiler.key_averages()
    cuda = device.type == "cuda"
    parts = {event.key: event for event in averages if event.key in RANGES}
    operators = sorted(
        (event for event in averages if event.key not in RANGES and not event.key.startswith("ProfilerStep")),
        key=lambda event: event.self_device_time_total if cuda else event.self_cpu_time_total,
        reverse=True,
    )
    return {
        "parts_ms": {
            name: (parts[name].device_time_total if cuda else parts[name].cpu_time_total) / 1e3
            for name in RANGES
            if name in parts
        },
        "operators_ms": {
            event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3
            for event in operators[:10]
        },
    }

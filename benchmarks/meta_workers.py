"""Engines and worker counts: DeepSpeed over plain torch, two workers over one, and what the machine itself allows.

In: a `World`'s folder.  Out: ratios. Every measurement runs in processes of its own with one thread each; run as a
module, this is such a process, which prints its median seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.config.root import project_root
from pipeline.runtime.environment import worker_environment


def measure_engines(folder: Path, shape: str, rounds: int) -> dict[str, Any]:
    """One worker's step by DeepSpeed over the same by plain torch; both in one process, taking turns."""
    (seconds,) = _run_together(folder, shape, rounds, mode="engines", world=1)
    deepspeed, local = seconds["deepspeed"], seconds["local"]
    return {
        "deepspeed_s": statistics.median(deepspeed),
        "local_s": statistics.median(local),
        "deepspeed_over_local": statistics.median([a / b for a, b in zip(deepspeed, local, strict=True)]),
    }


def measure_workers(folder: Path, shape: str, rounds: int) -> dict[str, Any]:
    """Speed-up by a second DeepSpeed worker, and by a second process that shares nothing with the first.

    The same episodes a step in every case. `ceiling`: two processes of plain torch at the same time, half of the
    episodes each, without a word between them: what no communication could bring more of on this machine.
    """
    figures: dict[str, Any] = {}
    for mode in ("deepspeed", "local"):
        # One worker before and after two, since the machine's speed may drift.
        before = _median(_run_together(folder, shape, rounds, mode=mode, world=1))
        two = _median(_run_together(folder, shape, rounds, mode=mode, world=2))
        after = _median(_run_together(folder, shape, rounds, mode=mode, world=1))
        figures |= {f"{mode}_1_s": (before + after) / 2, f"{mode}_2_s": two}
    figures["speed_up"] = figures["deepspeed_1_s"] / figures["deepspeed_2_s"]
    figures["ceiling"] = figures["local_1_s"] / figures["local_2_s"]
    return figures


def _median(results: list[dict[str, list[float]]]) -> float:
    """The slower worker's median."""
    return max(statistics.median(result["step"]) for result in results)


def _run_together(folder: Path, shape: str, rounds: int, *, mode: str, world: int) -> list[dict[str, list[float]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, **worker_environment(1), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.meta_workers", str(folder), shape, mode),
                *("--rounds", str(rounds), "--rank", str(rank), "--world", str(world)),
            ],
            cwd=project_root(),
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a measuring process ended with {[process.returncode for process in processes]}")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def main() -> None:
    """One measuring process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("shape")
    parser.add_argument("mode", choices=["engines", "deepspeed", "local"])
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=args.rank, world_size=args.world)
    print(json.dumps(_measure(args)))
    torch.distributed.destroy_process_group()


def _measure(args: argparse.Namespace) -> dict[str, list[float]]:
    import torch

    from benchmarks.meta_steps import Run, take_turns
    from benchmarks.meta_world import OPTIM, SHAPES, World
    from pipeline.config.schema import RuntimeConfig
    from pipeline.episodes.sampler import worker_slots
    from pipeline.runtime.deepspeed_engine import DeepSpeedEngine
    from pipeline.training.allocator import keep_freed_memory
    from pipeline.training.engine import Engine, LocalEngine

    keep_freed_memory()  # as every training process does
    world = World(args.folder, SHAPES[args.shape])
    stage = RuntimeConfig().zero_stage

    def update(kind: str) -> Run:
        semi = world.semi().train()
        task = world.task(semi)
        engine: Engine = LocalEngine(semi, OPTIM) if kind == "local" else DeepSpeedEngine(semi, OPTIM, zero_stage=stage)
        slots = worker_slots(task.slots_per_step, args.rank, args.world)

        def run(step: int) -> None:
            batch = task.prepare(step, slots, world.device)
            engine.update(task.losses(engine.module, batch).mean(), OPTIM.learning_rate)

        return run

    if args.mode == "engines":
        runs = {name: update(name) for name in ("local", "deepspeed")}
    else:
        runs = {"step": update(args.mode)}
    torch.distributed.barrier()
    return take_turns(runs, args.rounds, world.device)


if __name__ == "__main__":
    main()

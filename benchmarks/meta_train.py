"""How close meta-training is to what the hardware allows, and how far from the published loop.

`python -m benchmarks.meta_train`.  In: a shape of the LLM and of a step.  Out: a table of ratios with their targets,
and the figures behind them as JSON (`--json FILE`).  Parts: `floor` (our step against the bare LLM on as many tokens),
`profile` (what a step consists of), `reference` (against a transcription of the published loop), `batching` (episodes
together against one at a time), `engines` (DeepSpeed against plain torch), `workers` (two against one).  On a CPU one
thread; on a GPU the first four parts, which need neither Ray nor DeepSpeed.  Figures of a busy machine are worth
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.runtime.environment import worker_environment

PARTS = ("floor", "profile", "reference", "batching", "engines", "workers")
_NO_RAY = ("floor", "profile", "reference", "batching")
_DENSE_BF16_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Peak of a card without sparsity, by a part of its name (NVIDIA's data sheets)."""

Row = tuple[str, str, str, str]


def main() -> None:
    """Entry point."""
    args = _arguments()
    # Numeric libraries read it when they are imported, hence no such import above.
    os.environ.update(worker_environment(args.threads) | {"HF_HUB_OFFLINE": "1"})
    with tempfile.TemporaryDirectory(prefix="semi-benchmark-", dir=args.folder) as folder:
        _show(measure(Path(folder), args))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="small", help="tiny, miniature, small or llama1b (default: small)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None, help="default: all that the device can run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--compile", action="store_true", help="llm.execution.compile=true for ours, never for the floor"
    )
    parser.add_argument("--queries", type=int, help="queries an episode (default: the shape's)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and BLAS, in every process (default: 1)")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each contestant (default: 7)")
    parser.add_argument("--folder", type=Path, help="where models and shards are written for a while (default: /tmp)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, after each part")
    return parser.parse_args()


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of each part; they are in `args.json` as soon as a part has them."""
    import torch

    from benchmarks import meta_steps, meta_workers
    from benchmarks.meta_world import PROMPTS, World, shape_named
    from pipeline.training.allocator import keep_freed_memory

    shape = shape_named(args.shape)
    torch.set_num_threads(args.threads)
    if args.device == "cpu":
        keep_freed_memory()  # as every training process does
    if args.queries:
        shape = replace(shape, queries=args.queries)
    world = World(folder, shape, device=args.device, compiled=args.compile)
    settings = {key: str(value) for key, value in vars(args).items()}
    figures: dict[str, Any] = {"settings": settings, "shape": vars(world.shape), "card": _card(world.device)}
    for part in args.parts or (PARTS if args.device == "cpu" else _NO_RAY):
        if part == "floor":
            figures[part] = meta_steps.measure_floor(world, args.rounds)
        elif part == "profile":
            figures[part] = meta_steps.measure_profile(world)
        elif part == "reference":
            for prompt in PROMPTS:
                other = World(folder, world.shape, prompt=prompt, device=args.device, compiled=args.compile)
                figures[f"{part}_{prompt}"] = meta_steps.measure_reference(other, args.rounds)
        elif part == "batching":
            figures[part] = meta_steps.measure_batching(world, args.rounds)
        elif part == "engines":
            figures[part] = meta_workers.measure_engines(folder, args.shape, args.rounds)
        else:
            figures[part] = meta_workers.measure_workers(folder, args.shape, args.rounds)
        if args.json is not None:
            args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def _card(device: Any) -> str | None:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "value", "target", "details", title=f"Meta-training, {figures['settings']['shape']}")
    for row in rows(figures):
        table.add_row(*row)
    Console(highlight=False).print(table)


def rows(figures: dict[str, Any]) -> Iterator[Row]:
    """The table."""
    if "floor" in figures:
        yield from _floor_rows(figures["floor"], figures["card"])
    if "profile" in figures:
        for what, key in (("part", "parts_ms"), ("operator", "operators_ms")):
            for name, milliseconds in figures["profile"][key].items():
                yield f"{what}: {name}", f"{milliseconds:,.1f} ms", "", "under the profiler"
    for key, f in figures.items():
        if key.startswith("reference_"):
            speeds = f"{f['ours_queries_per_s']:,.1f} against {f['reference_queries_per_s']:,.1f} queries/s"
            name = f"queries/s, ours / published loop, {key.removeprefix('reference_')} prompt of {f['prompt']} tokens"
            yield name, f"{f['ours_over_reference']:.2f}", ">= 3", speeds
    if "batching" in figures:
        f = figures["batching"]
        for queries in (1, 2, 4):
            details = f"{f['episodes']} episodes of {queries}"
            yield "batched / one at a time", f"{f[f'speed_up_{queries}']:.2f}", ">= 2", details
    if "engines" in figures:
        f = figures["engines"]
        times = f"{1e3 * f['deepspeed_s']:,.0f} against {1e3 * f['local_s']:,.0f} ms"
        yield "DeepSpeed / plain torch, 1 worker", f"{f['deepspeed_over_local']:.3f}", "<= 1.10", times
    if "workers" in figures:
        f = figures["workers"]
        times = f"{1e3 * f['deepspeed_1_s']:,.0f} and {1e3 * f['deepspeed_2_s']:,.0f} ms"
        yield "2 workers / 1", f"{f['speed_up']:.2f}", ">= 1.7", times
        yield "2 processes / 1, nothing shared", f"{f['ceiling']:.2f}", "", "what the machine allows"


def _floor_rows(f: dict[str, Any], card: str | None) -> Iterator[Row]:
    times = f"{1e3 * f['step_s']:,.1f} against {1e3 * f['floor_s']:,.1f} ms"
    yield "step / bare LLM on as many tokens", f"{f['step_over_floor']:.3f}", "<= 1.15", times
    times = f"{1e3 * f['prefetched_s']:,.1f} ms, the next step's data made in a thread meanwhile"
    yield "the same, data prefetched", f"{f['prefetched_over_floor']:.3f}", "<= 1.15", times
    yield "data and isometries / step", f"{f['prepare_share']:.1%}", "<= 5%", f"{1e3 * f['prepare_s']:,.1f} ms"
    details = f"{f['trained_parameters'] / 1e6:,.1f}M trained"
    yield "hypernetwork, projector, update / step", f"{f['own_share']:.1%}", "", details
    fed = f"{f['tokens']:,} tokens in {f['forwards']} forwards"
    yield "padding", f"{f['padding']:.1%}", "< 5%", fed
    peak = next((flops for name, flops in _DENSE_BF16_FLOPS.items() if card and name in card), None)
    if peak:
        # Frozen weights: 2 N FLOP a token forward, 2 N backward to the inputs.
        used = 4 * f["parameters"] * f["tokens"] / f["prefetched_s"]
        details = f"{used / 1e12:,.0f} TFLOP/s, {f['peak_gib']:.1f} GiB, {card}"
        yield "MFU, data prefetched", f"{used / peak:.1%}", ">= 40%", details


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

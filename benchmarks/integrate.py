"""What users wait for: an adapter of their pairs, and its captions.

`python -m benchmarks.integrate`.  In: a shape of the LLM.  Out: seconds of an adapter as generated and of the steps
that may follow, a step against the bare LLM on as many tokens, several fits in lockstep against one after another, and
captions against a bare greedy loop with kept keys and values, in batches of several sizes.  On a CPU one thread, unless
told otherwise; no Ray.  Weights are random, so that every caption has as many tokens as are allowed: speed is what is
measured here, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.runtime.environment import worker_environment

_BATCHES = (1, 32)
_TOGETHER = 8
"""Fits of a protocol that are made in lockstep."""


def main() -> None:
    """Entry point."""
    args = _arguments()
    # Numeric libraries read it when they are imported, hence no such import above.
    os.environ.update(worker_environment(args.threads) | {"HF_HUB_OFFLINE": "1"})
    with tempfile.TemporaryDirectory(prefix="semi-benchmark-", dir=args.folder) as folder:
        figures = measure(Path(folder), args)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    _show(figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", default="miniature", help="tiny, miniature, small or llama1b (default: miniature)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and BLAS (default: 1)")
    parser.add_argument("--shots", type=int, default=32, help="pairs of the support (default: 32)")
    parser.add_argument("--steps", type=int, default=30, help="fine-tuning steps of 16 pairs (default: 30)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant (default: 5)")
    parser.add_argument("--folder", type=Path, help="where models and shards are written for a while (default: /tmp)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and ratios, medians over rounds in which the contestants take turns."""
    import numpy as np
    import torch

    from benchmarks.meta_steps import bare_llm, medians, take_turns
    from benchmarks.meta_world import World, shape_named
    from pipeline.adaptation.captioner import ProjectorCaptioner
    from pipeline.adaptation.methods import SemiMethod, fit_together
    from pipeline.adaptation.support import read_support
    from pipeline.config.schema import FinetuneConfig
    from pipeline.training.allocator import keep_freed_memory

    shape = shape_named(args.shape)
    torch.set_num_threads(args.threads)
    if args.device == "cpu":
        keep_freed_memory()
    world = World(folder, shape, device=args.device)
    device, llm, semi = world.device, world.llm, world.semi()
    support = read_support(world.rows, np.arange(args.shots, dtype=np.int64))
    queries_NE = world.rows.embeddings(np.arange(max(_BATCHES), dtype=np.int64)).to(device)

    def method(steps: int) -> SemiMethod:
        config = FinetuneConfig(steps=steps, batch_size=16, learning_rate=1e-4)
        return SemiMethod(semi=semi, llm=llm, finetuning=config, chunk=128)

    ids = llm.caption_ids(support.captions)
    # As many tokens as the steps read: epochs of all pairs.
    floor = bare_llm(world, [ids[:16]] * (args.rounds + 1), parts=1)
    runs: dict[str, Callable[[int], object]] = {
        "generated": lambda seed: method(0).fit(support, seed),
        "tuned": lambda seed: method(args.steps).fit(support, seed),
        "together": lambda seed: fit_together(method(args.steps), [(support, seed + n) for n in range(_TOGETHER)]),
        "floor": lambda round_: [floor(round_) for _ in range(args.steps)],
    }
    with torch.no_grad():
        projector = semi.integrate(support.batch(device), chunk=128)
    captioner = ProjectorCaptioner(projector=projector, llm=llm, trained_parameters=0)
    for size in _BATCHES:
        rows_NE = queries_NE[:size]
        runs[f"captions_{size}"] = lambda _, rows_NE=rows_NE: captioner.caption(rows_NE)
        runs[f"bare_captions_{size}"] = lambda _, rows_NE=rows_NE: bare_captions(llm, projector(rows_NE))
    seconds = take_turns(runs, args.rounds, device)
    figures: dict[str, Any] = medians(seconds)
    for ours, bare in (("tuned", "floor"), *((f"captions_{size}", f"bare_captions_{size}") for size in _BATCHES)):
        figures[f"{ours}_over_bare"] = statistics.median(np.divide(seconds[ours], seconds[bare]))
    figures["together_over_alone"] = statistics.median(np.divide(seconds["together"], seconds["tuned"])) / _TOGETHER
    figures["settings"] = {key: str(value) for key, value in vars(args).items()}
    figures["caption_tokens"] = llm.config.max_caption_tokens
    if device.type == "cuda":
        figures["card"] = torch.cuda.get_device_name(device)
        figures["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures


def bare_captions(llm: Any, soft_BSD: Any) -> Any:
    """Token ids of greedy captions, `[B, T]`, by nothing but forwards with kept keys and values: the floor."""
    import torch

    with torch.no_grad():
        embeddings_BLD, cache, tokens = llm._prompt_embeddings(soft_BSD), None, []
        for _ in range(llm.config.max_caption_tokens):
            out = llm.model(inputs_embeds=embeddings_BLD, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, token_B1 = out.past_key_values, out.logits[:, -1].argmax(dim=-1, keepdim=True)
            tokens.append(token_B1)
            embeddings_BLD = llm.model.get_input_embeddings()(token_B1)
        return torch.cat(tokens, dim=1).cpu()


def rows(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The table."""
    settings = figures["settings"]
    steps, shots = settings["steps"], settings["shots"]
    table = [
        (f"adapter of {shots} pairs", f"{figures['generated_s']:.3f} s", "generated, no step"),
        (f"the same, {steps} steps of 16 pairs", f"{figures['tuned_s']:.2f} s", "60 s and less are wanted"),
        (
            "that / bare LLM on as many tokens",
            f"{figures['tuned_over_bare']:.2f}",
            f"{figures['floor_s']:.2f} s for its forwards and backwards",
        ),
    ]
    lockstep = f"{figures['together_s']:.2f} s"
    table.append((f"{_TOGETHER} such fits in lockstep / one by one", f"{figures['together_over_alone']:.2f}", lockstep))
    for size in _BATCHES:
        ours_s = figures[f"captions_{size}_s"]
        speed = f"{size / ours_s:,.1f} captions/s of {figures['caption_tokens']} tokens"
        table.append((f"{size} captions / bare greedy loop", f"{figures[f'captions_{size}_over_bare']:.2f}", speed))
    together = figures["captions_1_s"] * max(_BATCHES) / figures[f"captions_{max(_BATCHES)}_s"]
    table.append((f"{max(_BATCHES)} captions together / one at a time", f"{together:.1f}", "times as fast"))
    return table


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    where = f"{figures['card']}, {figures['peak_gib']:.1f} GiB" if "card" in figures else "CPU"
    table = Table("measure", "value", "details", title=f"Integration, {figures['settings']['shape']}, {where}")
    for row in rows(figures):
        table.add_row(*row)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

"""How fast and how lean the embedding stage is, against the least that could do the same.

`python -m benchmarks.embeddings`.  In: sizes.  Out: a table of ratios with their targets, and the figures behind them
as JSON (`--json FILE`).  Parts: `extraction` (Ray Data against the bare loop), `memory` (of writer and reader as rows
double), `episodes` (random access against pickles and a memory map).  Figures of a busy machine are worth nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.runtime.environment import worker_environment

PARTS = ("extraction", "memory", "episodes")


def main() -> None:
    """Entry point."""
    args = _arguments()
    # Numeric libraries read it when they are imported, hence no such import above.
    os.environ.update(worker_environment(args.threads) | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})
    figures: dict[str, Any] = {"settings": {key: str(value) for key, value in vars(args).items()}}
    with tempfile.TemporaryDirectory(prefix="semi-benchmark-", dir=args.folder) as folder:
        for part in args.parts:
            figures[part] = _measure(part, args, Path(folder) / part)
    _show(figures)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20480, help="of extraction and memory (default: 20480)")
    parser.add_argument("--episode-rows", type=int, default=102400, help="of random access (default: 102400)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--threads", type=int, default=1, help="of torch and BLAS, in every process (default: 1)")
    parser.add_argument("--batch-size", type=int, default=64, help="texts a forward pass (default: 64)")
    parser.add_argument("--layers", type=int, default=6, help="of the encoder (default: 6, as all-MiniLM-L6)")
    parser.add_argument("--width", type=int, default=384, help="of the encoder (default: 384)")
    parser.add_argument("--repeats", type=int, default=200, help="warm episodes (default: 200; a tenth are cold ones)")
    parser.add_argument("--folder", type=Path, help="where datasets are written for a while, on a disk (default: /tmp)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def _measure(part: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    if part == "extraction":
        from benchmarks import extraction

        return extraction.measure(
            folder,
            rows=args.rows,
            threads=args.threads,
            batch_size=args.batch_size,
            layers=args.layers,
            width=args.width,
        )
    if part == "memory":
        from benchmarks import memory

        return memory.measure(folder, rows=args.rows)
    import torch

    from benchmarks import episodes

    torch.set_num_threads(args.threads)
    cold = max(args.repeats // 10, 3)
    return episodes.measure(folder, rows=args.episode_rows, repeats=args.repeats, cold_repeats=cold)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "value", "target", "details", title="Embedding stage")
    for row in _rows(figures):
        table.add_row(*row)
    Console(highlight=False).print(table)


def _rows(figures: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    if "extraction" in figures:
        f = figures["extraction"]
        speeds = f"{f['ray_rows_per_s']:,.0f} against {f['bare_rows_per_s']:,.0f} rows/s, {f['rows']:,} rows"
        yield "Ray Data / bare loop, steady state", f"{f['ratio']:.3f}", ">= 0.90", speeds
        yield "first shard after", f"{f['startup_s']:.1f} s", "", "Ray's start, imports, one shard"
    if "memory" in figures:
        f = figures["memory"]
        for what, name in (("write", "writer"), ("read", "reader")):
            once, twice = f[f"{what}_mib"]
            peaks = f"{once:,.0f} MiB at {f['rows']:,} rows, {twice:,.0f} at twice as many"
            yield (
                f"peak memory, growth of {name}",
                f"{f[f'{what}_growth_percent']:+.1f}%",
                "< 10%",
                peaks,
            )
    if "episodes" in figures:
        yield from _episode_rows(figures["episodes"])


def _episode_rows(f: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for state in ("warm", "cold"):
        ours, memmap = f["shards"][f"{state}_ms"], f["memmap"][f"{state}_ms"]
        for name, label in (("pickle", "pickled columns"), ("pickle_of_rows", "pickled rows")):
            against = f"{f[name][f'{state}_ms']:.2f} against {ours:.2f} ms an episode"
            yield f"{label} / shards, {state}", f"{f[f'{state}_{name}_over_shards']:.1f}", ">= 10", against
        against = f"{ours:.2f} against {memmap:.2f} ms"
        yield f"shards / memory map, {state}", f"{f[f'{state}_shards_over_memmap']:.2f}", "<= 2", against
    for name in ("shards", "memmap", "pickle", "pickle_of_rows"):
        variant = f[name]
        details = f"{variant['cold_mib_from_disk']:.1f} MiB from the disk; opened in {variant['open_ms']:.1f} ms"
        yield f"cold episode: {name}", f"{variant['cold_ms']:.2f} ms", "", details


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

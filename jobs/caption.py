"""Caption files with adapters that `jobs.integrate` made: embed, project, generate.

In: one adapter or several that share an LLM, and files, folders or tables (CSV, JSONL, Parquet).
Out: JSON Lines of id, adapter and caption, and a table on the terminal; inputs that cannot be read go to
`<out>.rejected.jsonl` with the reason.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.markup import escape
from rich.table import Table

from jobs._cli import config_from, console, job_parser, run_job, stage_progress
from pipeline.config.artifacts import write_text_atomic
from pipeline.data.inputs import RawInput, read_inputs

if TYPE_CHECKING:
    from pipeline.adaptation.generation import Generation
    from pipeline.adaptation.service import CaptionService

_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to caption, with what, and how."""
    parser.add_argument(
        "--adapter", action="append", required=True, metavar="[NAME=]DIR", help="adapter folder; repeatable"
    )
    parser.add_argument(
        "--input",
        action="append",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders or tables; given as often as --adapter, the first goes to the first adapter, and so on",
    )
    parser.add_argument("--adapter-field", metavar="COLUMN", help="column of the tables that names a row's adapter")
    parser.add_argument("--field", metavar="COLUMN", help="column with the signal or its file (default: the card's)")
    parser.add_argument("--id-field", metavar="COLUMN", help="column with the id (default: id, else the row's number)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON Lines to write")
    parser.add_argument("--batch-size", type=int, default=32, help="inputs at once (default: 32)")
    parser.add_argument("--device", default="cpu", help="device of encoders and LLM (default: cpu)")
    parser.add_argument("--temperature", type=float, help="sample at this temperature (default: greedy)")
    parser.add_argument("--top-p", type=float, help="sample among the likeliest tokens that hold this share")
    parser.add_argument("--num-beams", type=int, help="beams of a search")
    parser.add_argument("--max-tokens", type=int, help="longest caption (default: the card's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling (default: 0)")
    parser.add_argument(
        "--generate",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="further argument of transformers' generate, such as repetition_penalty=1.2; repeatable",
    )


def adapters_of(texts: list[str]) -> dict[str, Path]:
    """Folders by name; one without a name is called as its folder."""
    adapters: dict[str, Path] = {}
    for text in texts:
        name, named, directory = text.partition("=")
        path = Path(directory if named else text)
        name = name if named else path.resolve().name
        if name in adapters:
            raise ValueError(f"--adapter: two are called {name!r}: name them, --adapter one={path}")
        adapters[name] = path
    return adapters


def read_all(args: argparse.Namespace, service: CaptionService) -> dict[str, list[RawInput]]:
    """The inputs of each adapter."""
    names, groups = service.names, args.input
    in_order = args.adapter_field is None and len(names) > 1
    if in_order and len(groups) != len(names):
        raise ValueError(
            f"--input is given {len(groups)} times for {len(names)} adapters ({', '.join(names)}): give one --input "
            "an adapter, in their order, or name a column with --adapter-field"
        )
    inputs: dict[str, list[RawInput]] = {name: [] for name in names}
    for number, group in enumerate(groups):
        owner = names[number if in_order else 0]
        signals = service.card(owner).signals
        for path in group:
            for one in read_inputs(
                Path(path),
                signals.kind,
                column=args.field or signals.payload_field,
                id_column=args.id_field,
                adapter_column=args.adapter_field,
            ):
                known = one.adapter is None or one.adapter in inputs
                problem = one.problem if known else f"no adapter {one.adapter!r}; there are {', '.join(names)}"
                inputs[one.adapter if one.adapter in inputs else owner].append(replace(one, problem=problem))
    return inputs


def caption_all(
    service: CaptionService, inputs: dict[str, list[RawInput]], generation: Generation, batch_size: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Captions, and what was rejected."""
    done: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    with stage_progress("caption", total=sum(map(len, inputs.values())), unit="inputs") as advance:
        for name, ones in inputs.items():
            readable = [one for one in ones if one.problem is None and one.signal is not None]
            advance(len(ones) - len(readable))
            results = service.try_caption(
                name,
                [one.signal for one in readable if one.signal is not None],
                generation,
                batch_size=batch_size,
                advance=advance,
            )
            rejected += [{"id": one.id, "adapter": name, "reason": one.problem} for one in ones if one.problem]
            for one, result in zip(readable, results, strict=True):
                row = {"id": one.id, "adapter": name}
                if result.caption is None:
                    rejected.append({**row, "reason": result.problem})
                else:
                    done.append({**row, "caption": result.caption})
    return done, rejected


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON Lines, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def show(done: list[dict[str, Any]], rejected: list[dict[str, Any]], out: Path, kept: Path) -> None:
    """The first captions, and what was left out."""
    table = Table("input", "adapter", "caption", box=None, pad_edge=False, header_style="bold")
    for row in done[:_SHOWN]:
        table.add_row(*(escape(row[key]) for key in ("id", "adapter", "caption")))
    console.print(table)
    more = f" ({len(done) - _SHOWN} more)" if len(done) > _SHOWN else ""
    console.print(f"{len(done)} captions{more}: {out}", markup=False, soft_wrap=True)
    if rejected:
        ((reason, count), *_) = Counter(row["reason"] for row in rejected).most_common(1)
        text = f"{len(rejected)} inputs rejected, {count} of them: {reason}; all of them: {kept}"
        console.print(text, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point."""
    parser = job_parser(__doc__)
    add_arguments(parser)
    args = parser.parse_args()
    config_from(args)
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be 1 or more, got {args.batch_size}")
    # Not above: torch and transformers take seconds, and `--help` needs neither.
    from pipeline.adaptation.generation import Generation
    from pipeline.adaptation.service import CaptionService

    generation = Generation(
        temperature=args.temperature,
        top_p=args.top_p,
        num_beams=args.num_beams,
        max_tokens=args.max_tokens,
        seed=args.seed,
        other=dict(_key_value(text) for text in args.generate),
    )
    service = CaptionService.load(adapters_of(args.adapter), device=args.device)
    done, rejected = caption_all(service, read_all(args, service), generation, args.batch_size)
    kept = args.out.with_name(f"{args.out.name}.rejected.jsonl")
    if rejected:
        write_lines(kept, rejected)
    else:
        kept.unlink(missing_ok=True)
    if not done:
        raise ValueError(f"none of {len(rejected)} inputs could be captioned; first: {rejected[0]['reason']}")
    write_lines(args.out, done)
    show(done, rejected, args.out, kept)


def _key_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"--generate {text!r} is not of the form key=value")
    return key, yaml.safe_load(value)


if __name__ == "__main__":
    run_job(main)

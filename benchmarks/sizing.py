"""How long a run takes, and what it costs, on so many workers: arithmetic from rates that were measured elsewhere.

In: rates of one worker (`--run` takes them from a finished run's records), the size of the work, prices.  Out: a table
in Markdown, each column with its formula.  Nothing is measured here, and what is not in the formulas is not in the
figures: waiting for data or nodes, checkpoints, and work that was done twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

FORMULAS = """\
- embeddings, h = rows / (rows_per_s * W) / 3600
- waves = ceil(episodes / W): the episodes of a step that a worker computes one after the other
- exchange, s = 2 * (W - 1) / W * trained_mb * 8 / 1000 / gbit_per_s: a ring all-reduce of the gradients
- step, s = step_s * waves / episodes + exchange
- training, h = steps * step / 3600
- busy = step_s / (W * step): the share of a worker's time that is spent on episodes
- cost = W * (embeddings + training) * price: W workers at `price` an hour each; storage and the head are extra"""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured, and how much work there is."""

    rows: int
    """Rows to embed, over all modalities and encoders; 0: the embeddings are there."""
    rows_per_s: float
    """Rows that one encoder actor embeds in a second."""
    steps: int
    """Meta-training steps."""
    step_s: float
    """Seconds of a step on one worker."""
    episodes: int
    """Episodes of a step (`meta.episodes_per_step`)."""
    trained_mb: float
    """Megabytes of gradients."""
    gbit_per_s: float
    """Network between two workers, gigabits a second."""
    price: float
    """Of a worker for an hour, in any currency."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """One line of the table."""

    workers: int
    """How many."""
    embeddings_h: float
    """Hours of extraction."""
    step_s: float
    """Seconds of a step."""
    training_h: float
    """Hours of meta-training."""
    busy: float
    """Share of the time on episodes."""
    cost: float
    """Of both stages."""


def size(rates: Rates, workers: int) -> Size:
    """The formulas."""
    embeddings_h = rates.rows / (rates.rows_per_s * workers) / 3600
    waves = ceil(rates.episodes / workers)
    exchange_s = 2 * (workers - 1) / workers * rates.trained_mb * 8 / 1000 / rates.gbit_per_s
    step_s = rates.step_s * waves / rates.episodes + exchange_s
    training_h = rates.steps * step_s / 3600
    return Size(
        workers=workers,
        embeddings_h=embeddings_h,
        step_s=step_s,
        training_h=training_h,
        busy=rates.step_s / (workers * step_s),
        cost=workers * (embeddings_h + training_h) * rates.price,
    )


def table(rates: Rates, workers: Sequence[int]) -> str:
    """All lines, in Markdown."""
    lines = ["| W | embeddings, h | step, s | training, h | busy | cost |", "|---|---|---|---|---|---|"]
    for line in (size(rates, count) for count in workers):
        lines.append(
            f"| {line.workers} | {line.embeddings_h:.2f} | {line.step_s:.3f} | {line.training_h:.2f} | "
            f"{line.busy:.0%} | {line.cost:,.2f} |"
        )
    return "\n".join(lines)


def from_run(folder: Path) -> dict[str, float]:
    """Rates of a finished run: rows and seconds of its extraction, seconds a step of its meta-training.

    They are those of all its workers together: measure with one.
    """
    embeddings, training = (_info(folder / stage) for stage in ("embeddings", "meta_train"))
    return {
        "rows_per_s": float(embeddings["rows"]) / float(embeddings["seconds"]),
        "step_s": float(training["seconds"]) / float(training["steps"]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, help="finished run to take --rows-per-s and --step-s from")
    for name, kind in (("rows", int), ("rows-per-s", float), ("steps", int), ("step-s", float), ("episodes", int)):
        parser.add_argument(f"--{name}", type=kind, required=name in ("rows", "steps", "episodes"))
    parser.add_argument("--trained-mb", type=float, required=True)
    parser.add_argument("--gbit-per-s", type=float, required=True)
    parser.add_argument("--price", type=float, required=True, help="of a worker for an hour")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 20, 40, 100])
    args = parser.parse_args(arguments)
    measured = from_run(args.run) if args.run else {}
    values = {name: getattr(args, name) for name in Rates.__dataclass_fields__}
    values |= {name: value for name, value in measured.items() if values[name] is None}
    if args.rows == 0:
        values["rows_per_s"] = values["rows_per_s"] or 1.0  # of no rows: any rate
    if wrong := [
        name for name, value in values.items() if value is None or value < 0 or (not value and name != "rows")
    ]:
        parser.error(f"--{wrong[0].replace('_', '-')}: needed is a number above 0, or --run, got {values[wrong[0]]}")
    if min(args.workers) < 1:
        parser.error(f"--workers: each at least 1, got {min(args.workers)}")
    print(table(Rates(**values), args.workers))
    print(f"\n{FORMULAS}")


def _info(stage: Path) -> dict[str, float]:
    record: dict[str, float] = json.loads((stage / "stage.json").read_text(encoding="utf-8"))["info"]
    return record


if __name__ == "__main__":
    main()

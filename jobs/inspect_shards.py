"""Show what embedding datasets hold: schema, encoders, splits, norms, rejected rows and a few rows.

In: folders or URIs, searched for datasets (default: the embeddings of the run that the configuration names).
Out: a table a dataset; every shard's hash is checked while it is read, and a damaged one ends the job.
"""

from __future__ import annotations

import json

from rich.table import Table
from rich.text import Text

from jobs._cli import config_from, console, job_parser, run_job
from jobs._shards import add_locations, open_datasets
from pipeline.shards.manifest import EncoderRecord
from pipeline.shards.summary import DatasetSummary, Norms, SampleRow, summarise_dataset


def main() -> None:
    """Entry point."""
    parser = job_parser(__doc__)
    add_locations(parser)
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="sample rows of each dataset (default: 3)")
    args = parser.parse_args()
    config = config_from(args)
    if args.rows < 0:
        raise ValueError(f"--rows must be 0 or more, got {args.rows}")
    for _, dataset in open_datasets(args.locations, config):
        summary = summarise_dataset(dataset, rows=args.rows)
        console.print(Text(_printable(summary.name)), style="bold", soft_wrap=True)
        console.print(_facts(summary))
        if summary.samples:
            console.print(_samples(summary.samples))


def _facts(summary: DatasetSummary) -> Table:
    manifest = summary.manifest
    rejected = [f"{count:,} x {reason}" for reason, count in sorted(manifest.rejected_by_reason.items())]
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    facts = {
        "dataset": f"{manifest.dataset} ({manifest.kind})",
        "rows": f"{manifest.rows:,} in {len(manifest.shards):,} shards, {summary.bytes / 2**20:,.1f} MiB",
        "splits": ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items()),
        "encoder": _encoder(manifest.encoder),
        "text encoder": _encoder(manifest.text_encoder),
        "dtype": manifest.dtype,
        "norm of embedding": _norms(summary.embedding_norms),
        "norm of text embedding": _norms(summary.text_norms),
        "rejected": "\n".join([f"{manifest.rejected.rows:,}", *rejected]),
        "columns": "\n".join(f"{name}: {kind}" for name, kind in summary.columns.items()),
        "content key": manifest.content_key,
    }
    for name, fact in facts.items():
        table.add_row(name, Text(_printable(fact)))
    return table


def _encoder(encoder: EncoderRecord) -> str:
    return f"{encoder.name}: {encoder.id}, revision {encoder.revision or 'none'}, width {encoder.width}"


def _norms(norms: Norms) -> str:
    return f"{norms.smallest:.4g} to {norms.largest:.4g}, mean {norms.mean:.4g}"


def _samples(rows: tuple[SampleRow, ...]) -> Table:
    table = Table()
    for heading in ("id", "split", "captions", "attributes", "embedding"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        numbers = " ".join(f"{number:.3f}" for number in row.embedding)
        attributes = "\n".join(f"{name}: {value}" for name, value in row.attributes.items())
        cells = (row.id, row.split, "\n".join(row.captions), attributes, f"{numbers} ...")
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    return table


def _printable(text: str) -> str:
    """What a terminal would obey is shown as an escape: these texts come from data."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


if __name__ == "__main__":
    run_job(main)

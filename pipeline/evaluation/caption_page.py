"""Captions as a page to read: a sample's reference, and below it what every method says.

In: the columns of `caption_table`.  Out: one HTML file without scripts or anything from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from pipeline.evaluation.markdown import label

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 16px; color: #111; }
h2 { font-size: 17px; margin: 28px 0 8px; }
table { border-collapse: collapse; width: 100%; margin-bottom: 20px; }
caption { text-align: left; font-weight: 600; padding: 4px 8px; background: #eef3f8; }
td, th { text-align: left; padding: 3px 8px; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
td:first-child { white-space: nowrap; width: 1px; }
td:nth-child(n+3), th:nth-child(n+3) { text-align: right; width: 1px; white-space: nowrap; }
"""


def caption_page(columns: Mapping[str, Sequence[Any]], *, title: str) -> str:
    """The rows of a caption table, in their order."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    parts = [f"<h1>{escape(title)}</h1>"]
    for (dataset, encoder, shots), group in groupby(
        rows, key=lambda row: (row["dataset"], row["encoder"], row["shots"])
    ):
        size = "all pairs" if shots is None else f"{shots} pairs"
        parts.append(f"<h2>{escape(dataset)} <small>encoder {escape(encoder)}, {size}</small></h2>")
        parts += [_sample(list(lines)) for _, lines in groupby(group, key=lambda row: row["id"])]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f"<!DOCTYPE html>\n<html><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _sample(rows: Sequence[Mapping[str, Any]]) -> str:
    scored = any(row["attribute_accuracy"] is not None for row in rows)
    names = ("method", "caption", *(["attributes"] if scored else []), "CIDEr-D")
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "\n".join(
        f"<tr><td>{escape(label(row['method']))}</td><td>{escape(row['caption'])}</td>"
        + (f"<td>{_number(row['attribute_accuracy'], 2)}</td>" if scored else "")
        + f"<td>{_number(row['cider_d'], 0)}</td></tr>"
        for row in rows
    )
    return f"<table><caption>{escape(rows[0]['reference'])}</caption>\n<tr>{head}</tr>\n{body}\n</table>"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

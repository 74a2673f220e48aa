"""The page of captions."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from pipeline.evaluation.caption_page import caption_page
from pipeline.evaluation.results import Result, caption_table


def columns(**changes: list[Any]) -> dict[str, list[Any]]:
    return {
        "dataset": ["tiles"] * 2,
        "reference": ["a <b>red</b> square"] * 2,
        "method": ["semi", "scratch"],
        "caption": ["<script>x</script>", "a & b"],
        "attribute_accuracy": [0.5, 1.0],
        "cider_d": [12.3, 4.0],
        "shots": [32, 32],
        "encoder": ["image-a"] * 2,
        "id": ["tiles-1"] * 2,
        **changes,
    }


def test_every_caption_is_there_in_full_below_its_reference(results: list[Result]) -> None:
    table = caption_table(results, samples=2)
    page = caption_page(table, title="t")
    cells = [unescape(cell) for cell in re.findall(r"<tr><td>[^<]*</td><td>(.*?)</td>", page)]
    assert cells == table["caption"]
    assert page.count("<caption>") == len(set(zip(table["encoder"], table["id"], strict=True)))


def test_captions_are_text_and_never_markup() -> None:
    page = caption_page(columns(), title="<t>")
    assert "<script" not in page and "<b>red" not in page and "<title>&lt;t&gt;</title>" in page
    assert "<td>&lt;script&gt;x&lt;/script&gt;</td>" in page


def test_methods_have_the_names_of_the_report() -> None:
    assert "<td>projector from scratch</td><td>a &amp; b</td><td>1.00</td><td>4</td>" in caption_page(
        columns(), title="t"
    )


def test_captions_without_attributes_have_no_column_of_them() -> None:
    page = caption_page(columns(attribute_accuracy=[None, None], shots=[None, None]), title="t")
    assert "attributes" not in page and "all pairs" in page

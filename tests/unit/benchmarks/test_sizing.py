from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sizing import Rates, from_run, main, size

ROOT = Path(__file__).resolve().parents[3]
RATES = Rates(
    rows=3600, rows_per_s=1.0, steps=100, step_s=36.0, episodes=4, trained_mb=125.0, gbit_per_s=1.0, price=2.0
)


def test_one_worker_exchanges_nothing() -> None:
    one = size(RATES, 1)
    assert (one.embeddings_h, one.step_s, one.training_h, one.busy, one.cost) == pytest.approx(
        (1.0, 36.0, 1.0, 1.0, 4.0)
    )


def test_episodes_are_not_split() -> None:
    free = replace(RATES, gbit_per_s=1e9)
    assert [round(size(free, workers).step_s) for workers in (1, 2, 3, 4, 8)] == [36, 18, 18, 9, 9]


def test_a_ring_sends_the_gradients_twice() -> None:
    assert size(RATES, 4).step_s == pytest.approx(9.0 + 2 * 3 / 4 * 1.0)


def test_rates_of_a_run(tmp_path: Path) -> None:
    for stage, info in (("embeddings", {"rows": 50, "seconds": 5.0}), ("meta_train", {"steps": 4, "seconds": 2.0})):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "stage.json").write_text(json.dumps({"info": info}))
    assert from_run(tmp_path) == {"rows_per_s": 10.0, "step_s": 0.5}


def test_a_rate_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(shlex.split("--rows 1 --steps 1 --episodes 1 --trained-mb 1 --gbit-per-s 1 --price 1"))
    assert "--rows-per-s: needed is a number above 0, or --run, got None" in capsys.readouterr().err


def test_the_page_shows_what_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m benchmarks\.sizing (--rows .*)$", page, flags=re.MULTILINE)
    shown = re.findall(r"<!-- sizing -->\n(.*?)\n<!-- /sizing -->", page, flags=re.DOTALL)
    assert len(commands) == len(shown) == 2
    for command, expected in zip(commands, shown, strict=True):
        main(shlex.split(command))
        table, formulas = capsys.readouterr().out.strip().split("\n\n")
        assert table == expected and formulas in page


def test_no_rows_need_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    main(shlex.split("--rows 0 --steps 1 --step-s 1 --episodes 1 --trained-mb 1 --gbit-per-s 1 --price 1 --workers 1"))
    assert "| 1 | 0.00 | 1.000 |" in capsys.readouterr().out

"""The jobs that look at finished embeddings: what they print, and what they refuse."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from jobs import export_parquet, inspect_shards
from pipeline.shards import EmbeddingDataset
from tests.unit.shards.conftest import write_dataset

ROW = {"captions": ["two [bold]words[/bold]", "\x1b[31mred"], "split": "train", "attributes": {"side": "left"}}

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, root: Path) -> Run:
    """Runs a job with arguments; returns what it printed."""

    def main(job: object, *arguments: str) -> str:
        screen = io.StringIO()
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["job", "--verbose", *arguments])
        monkeypatch.setattr(job, "console", Console(file=screen, width=160, highlight=False))
        job.main()  # type: ignore[attr-defined]
        return screen.getvalue()

    return main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two datasets, one of them below a folder with a blank in its name."""
    for index, name in enumerate(("notes/a", "my tiles/b")):
        directory = tmp_path / "in" / name
        directory.mkdir(parents=True)
        write_dataset(directory, [[ROW] * 3, [ROW] * (index + 1)], "float16", index)
    return tmp_path / "in"


@pytest.mark.parametrize("remote", [False, True])
def test_every_dataset_below_is_shown(run: Run, folder: Path, remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    shown = run(inspect_shards, folder.as_uri() if remote else str(folder), "--rows", "2")
    assert shown.index("my tiles/b" if not remote else "my%20tiles/b") < shown.index("notes/a")
    for part in ("5 in 2 shards", "4 in 2 shards", "e: e, revision none, width 7", "train 5", "float16", "side: left"):
        assert part in shown
    assert shown.count("id 1 ") == 2
    assert "id 2 " not in shown
    assert "two [bold]words[/bold]" in shown
    assert "\\u001b[31mred" in shown and "\x1b[31mred" not in shown
    (numbers,) = EmbeddingDataset(folder / "notes" / "a").embeddings([0], normalize=False)[:, :4].tolist()
    assert " ".join(f"{number:.3f}" for number in numbers) in shown


def test_no_rows_no_table_of_rows(run: Run, folder: Path) -> None:
    assert "captions" not in run(inspect_shards, str(folder), "--rows", "0")
    with pytest.raises(ValueError, match="--rows must be 0 or more, got -1"):
        run(inspect_shards, str(folder), "--rows", "-1")


@pytest.mark.parametrize("remote", [False, True])
def test_a_folder_gets_a_file_of_each_dataset(
    run: Run, folder: Path, tmp_path: Path, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = folder.as_uri() if remote else str(folder)
    run(export_parquet, source, "--to", str(tmp_path / "out"))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in files) == [
        "my tiles/b.parquet",
        "notes/a.parquet",
    ]
    run(export_parquet, f"{source}/notes/a", "--to", str(tmp_path / "one"))
    assert pq.read_table(tmp_path / "one" / "a.parquet").equals(pq.read_table(tmp_path / "out" / "notes" / "a.parquet"))


def test_one_dataset_may_become_one_file(run: Run, folder: Path, tmp_path: Path) -> None:
    shown = run(export_parquet, str(folder / "notes"), "--to", str(tmp_path / "x.parquet"))
    assert f"{tmp_path / 'x.parquet'}  4 rows in 2 row groups" in shown
    assert pq.read_table(tmp_path / "x.parquet")["id"].to_pylist() == [f"id {row}" for row in range(4)]
    with pytest.raises(ValueError, match=r"x.parquet is one file, but there are 2 datasets: give a folder"):
        run(export_parquet, str(folder), "--to", str(tmp_path / "x.parquet"))
    with pytest.raises(ValueError, match="--to is missing: give a file that ends in .parquet for one dataset"):
        run(export_parquet, str(folder))
    same = [str(folder / "notes" / "a")] * 2
    with pytest.raises(ValueError, match=r"two datasets would be written to .*a.parquet"):
        run(export_parquet, *same, "--to", str(tmp_path / "out"))


def test_nothing_there_is_said(run: Run, tmp_path: Path) -> None:
    for location in (str(tmp_path), tmp_path.as_uri()):
        with pytest.raises(ValueError, match=f"no embedding dataset at or below {location}"):
            run(inspect_shards, location)
    with pytest.raises(ValueError, match="missing cannot be listed: "):
        run(inspect_shards, (tmp_path / "missing").as_uri())

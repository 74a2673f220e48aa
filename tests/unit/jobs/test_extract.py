"""What the progress line of an extraction is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import extract_embeddings
from jobs._cli import Advance
from pipeline.config.load import to_yaml
from tests.tiny_project import note_rows, save_models, tiny_config


def test_rows_of_an_earlier_run_are_not_part_of_the_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_models(tmp_path)
    config = tiny_config(tmp_path, notes=note_rows(20))
    config = replace(
        config,
        runs_dir=str(tmp_path / "runs"),
        tracking=replace(config.tracking, enabled=False),
        runtime=replace(config.runtime, engine="local"),
    )
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    monkeypatch.setattr("jobs._run.project_root", lambda: tmp_path)
    monkeypatch.setattr("sys.argv", ["extract_embeddings", "--config", str(file)])
    told: list[tuple[int, bool]] = []

    @contextmanager
    def stage_progress(title: str, total: int, unit: str) -> Iterator[Advance]:
        yield lambda count=1, note="", unpaced=False: told.append((count, unpaced))

    monkeypatch.setattr(extract_embeddings, "stage_progress", stage_progress)
    extract_embeddings.main()
    assert told[:2] == [(0, True), (0, True)] and sorted(told[2:-1]) == sorted([(8, False)] * 4 + [(4, False)] * 2)

    told.clear()
    (lost,) = (tmp_path / "runs").glob("*/embeddings/notes/text-b*/*00001*.arrow")
    lost.unlink()
    extract_embeddings.main()
    assert told[:2] == [(20, True), (12, True)] and told[2:-1] == [(8, False)]

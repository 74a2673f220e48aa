"""Folders that share embeddings and projectors with other runs."""

from __future__ import annotations

from pathlib import Path

from pipeline.runtime.linked_run import link, pretrained_dir


def test_a_link_survives_a_move_and_follows_its_target(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("first", "second", "trial"):
        (runs / name).mkdir(parents=True)
        (runs / name / "name").write_text(name)
    path = runs / "trial" / "projector"
    link(path, runs / "first")
    link(path, runs / "first")
    assert (path / "name").read_text() == "first"
    # A variant whose settings ask for another projector must not keep the old one.
    link(path, runs / "second")
    assert (path / "name").read_text() == "second"
    runs.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "trial" / "projector" / "name").read_text() == "second"


def test_a_shared_projectors_folder_has_the_runs_embeddings(tmp_path: Path) -> None:
    (tmp_path / "run" / "embeddings" / "image").mkdir(parents=True)
    folder = pretrained_dir(tmp_path / "run" / "ablations", "abc")
    assert folder == tmp_path / "run" / "ablations" / "pretrained" / "abc"
    assert (folder / "embeddings" / "image").is_dir()

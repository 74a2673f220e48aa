"""From an adapter's folder back to its run."""

from __future__ import annotations

from pathlib import Path

from jobs._run import TRACKING_FILE, tracking_id_of


def test_an_adapter_belongs_to_the_run_it_lies_in_or_that_signed_it(tmp_path: Path) -> None:
    run, adapter = tmp_path / "runs" / "demo", tmp_path / "adapters" / "tiles"
    inside = run / "integrate" / "satellite" / "draw-0"
    for folder in (inside, adapter):
        folder.mkdir(parents=True)
    assert tracking_id_of(inside) is None
    (run / TRACKING_FILE).write_text("feed\n")
    assert (tracking_id_of(inside), tracking_id_of(run), tracking_id_of(adapter)) == ("feed", "feed", None)
    (adapter / TRACKING_FILE).write_text("beef\n")
    assert tracking_id_of(adapter) == "beef"

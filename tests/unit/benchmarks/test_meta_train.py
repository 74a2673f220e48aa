"""The meta-training benchmark works at a tiny size; what it measures is another machine's business."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import meta_workers
from benchmarks.meta_train import measure, rows
from benchmarks.meta_world import SHAPES, World


def _arguments(*parts: str) -> Namespace:
    return Namespace(
        shape="tiny", device="cpu", threads=1, rounds=1, parts=parts, compile=False, queries=None, json=None
    )


def test_every_part_without_ray_gives_its_ratios(tmp_path: Path) -> None:
    figures = measure(tmp_path, _arguments("floor", "profile", "reference", "batching"))
    floor = figures["floor"]
    assert 0 <= floor["padding"] < 0.05 and floor["forwards"] >= 1
    assert floor["step_over_floor"] == pytest.approx(floor["step_s"] / floor["floor_s"])
    assert {"episodes", "adapters and projector", "llm forward", "llm backward"} <= set(figures["profile"]["parts_ms"])
    for prompt in ("plain", "chat"):
        reference = figures[f"reference_{prompt}"]
        assert reference["ours_over_reference"] == pytest.approx(reference["reference_s"] / reference["ours_s"])
    assert all(figures["batching"][f"speed_up_{queries}"] > 0 for queries in (1, 2, 4))
    measures = [row[0] for row in rows(figures)]
    assert measures[0] == "step / bare LLM on as many tokens" and "batched / one at a time" in measures


@pytest.mark.slow
def test_two_workers_share_a_step_in_processes_of_their_own(tmp_path: Path) -> None:
    World(tmp_path, SHAPES["tiny"])
    results = meta_workers._run_together(tmp_path, "tiny", 2, mode="deepspeed", world=2)
    assert [len(result["step"]) for result in results] == [2, 2]


def test_ratios_of_engines_and_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def together(folder: Path, shape: str, rounds: int, *, mode: str, world: int) -> list[dict[str, list[float]]]:
        if mode == "engines":
            return [{"deepspeed": [1.1, 2.2, 3.3], "local": [1.0, 2.0, 3.0]}]
        seconds = {("deepspeed", 1): 4.0, ("deepspeed", 2): 2.5, ("local", 1): 3.0, ("local", 2): 1.5}[mode, world]
        return [{"step": [seconds * (1 - 0.1 * rank)]} for rank in range(world)]

    monkeypatch.setattr(meta_workers, "_run_together", together)
    figures = measure(tmp_path, _arguments("engines", "workers"))
    assert figures["engines"]["deepspeed_over_local"] == pytest.approx(1.1)
    assert figures["workers"]["speed_up"] == pytest.approx(1.6), "the slower worker counts"
    assert figures["workers"]["ceiling"] == pytest.approx(2.0)
    assert [row[0] for row in rows(figures)][-1] == "2 processes / 1, nothing shared"


def test_an_unknown_shape_lists_the_known(tmp_path: Path) -> None:
    arguments = _arguments()
    arguments.shape = "huge"
    with pytest.raises(ValueError, match="--shape must be one of tiny, miniature, small, llama1b, got 'huge'"):
        measure(tmp_path, arguments)

"""What `jobs.tune` refuses before anything starts, and what it leaves: the best configuration, plots."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from jobs import tune
from jobs._run import Run
from jobs._sweep_report import best_of, importances, write_best, write_plots
from jobs._sweep_tracking import SweepTracking
from jobs.tune import SWEEP_FILE, check_folder, sweep_identity
from pipeline.config.load import load_config, override
from pipeline.config.presets import build_preset
from pipeline.config.space import Distribution, SearchSpace
from pipeline.evaluation.provenance import Commit, PeakRss
from pipeline.runtime.tune_records import TrialRecord, TrialRecords
from pipeline.runtime.tune_trial import pretrainings, sweep_config
from pipeline.tracking import Kind, NullTracker, Tracker

ROOT = Path(__file__).resolve().parents[3]
SMOKE = build_preset("smoke")
RANK, RATE, KIND, LAYERS = "hypernet.rank", "meta.optim.learning_rate", "hypernet.kind", "hypernet.layers"
SPACE = SearchSpace(
    validation=("audio",),
    against="deployed_parameters",
    fixed={"hypernet.heads": 1},
    shortened={"meta.optim.steps": 2},
    samples=8,
    space={
        KIND: Distribution(choice=("equivariant", "transformer")),
        LAYERS: Distribution(integers=(1, 3), when={KIND: ("transformer",)}),
        RATE: Distribution(loguniform=(1e-4, 1e-2)),
    },
)


def trial(number: int, score: float, parameters: float = 100.0, **other: Any) -> TrialRecord:
    layered = number % 2 == 1
    values = {KIND: "transformer" if layered else "equivariant", **({LAYERS: 2} if layered else {})}
    result = {"steps": 2.0, "score": score, "deployed_parameters": parameters, "seconds": 1.0}
    values[RATE] = 1e-4 * 1.7**number
    return TrialRecord(number=number, values=values, results=(result,), **({"state": "finished"} | other))


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ("space: {hypernet.rnk: {grid: [1]}}", [], "unknown key 'rnk' in hypernet: did you mean 'rank'?"),
        ("space: {}", [], "space is empty: give at least one field"),
        ("space: {seed: {grid: [1, 2]}}", [], "validation names no modality, and a sweep must not choose by held-out"),
        ("validation: [imu]\nspace: {seed: {grid: [1]}}", [], "validation must name datasets of role 'train'"),
        ("validation: [audio]\nspace: {seed: {grid: [1]}}", ["--resume"], "holds no sweep to resume"),
        ("scheduler: pbt\nspace: {seed: {grid: [1]}}", [], "scheduler 'pbt' is left out"),
    ],
)
def test_a_bad_sweep_is_refused_and_leaves_nothing(
    space: str, options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, runs = tmp_path / "space.yaml", tmp_path / "runs"
    file.write_text(space, encoding="utf-8")
    arguments = ["tune", "--preset", "smoke", "--space", str(file), "--set", f"runs_dir={runs}", *options]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        tune.main()
    assert not runs.exists()


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("validation: [audio]\nspace: {seed: {grid: [1]}}", encoding="utf-8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "jobs.tune", "--preset", "smoke", "--space", str(tmp_path / "space.yaml")]
        command += ["--set", f"runs_dir={tmp_path / 'runs'}", "--set", f"runtime.address={address}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: runtime.address: no Ray cluster answers at '{address}'")
    assert not (tmp_path / "runs").exists()


def test_attribute_accuracy_needs_attributes() -> None:
    audio = next(number for number, dataset in enumerate(SMOKE.datasets) if dataset.name == "audio")
    tree = [*SMOKE.datasets]
    tree[audio] = replace(tree[audio], source=replace(tree[audio].source, attribute_fields=()))
    config = replace(SMOKE, datasets=tuple(tree), evaluate=replace(SMOKE.evaluate, methods=("semi",)))
    with pytest.raises(ValueError, match="'attribute_accuracy' scores attributes, and audio has no"):
        sweep_config(config, SPACE)
    assert sweep_config(config, replace(SPACE, metric="cider_d")).evaluate.on == "validation"


def test_trials_never_see_held_out_modalities() -> None:
    config = sweep_config(SMOKE, SPACE)
    assert (config.evaluate.on, config.validation, config.evaluate.methods) == ("validation", ("audio",), ("semi",))
    assert [dataset.name for dataset in config.datasets_of("train")] == ["image"]
    assert sweep_config(override(SMOKE, {"validation": ["image"]}), SPACE).validation == ("image",)


def test_a_folder_holds_one_sweep_and_is_continued_on_request(tmp_path: Path) -> None:
    identity = sweep_identity(sweep_config(SMOKE, SPACE), SPACE)
    check_folder(tmp_path, identity, resume=None)
    check_folder(tmp_path, identity, resume="auto")
    (tmp_path / SWEEP_FILE).write_text(f'{{"identity": "{identity}"}}')
    check_folder(tmp_path, identity, resume="must")
    check_folder(tmp_path, identity, resume="auto")
    with pytest.raises(ValueError, match="holds this sweep already: go on with --resume"):
        check_folder(tmp_path, identity, resume=None)
    with pytest.raises(ValueError, match="holds a sweep of another space or configuration"):
        check_folder(tmp_path, "another", resume="auto")


def test_retrying_what_failed_means_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tune", "--space", "tune_spaces/quick.yaml", "--retry-failed"])
    with pytest.raises(ValueError, match="^--retry-failed tries failed trials .*: give --resume with it$"):
        tune.main()


def test_more_trials_and_another_cluster_are_the_same_sweep() -> None:
    config = sweep_config(SMOKE, SPACE)
    identity = sweep_identity(config, SPACE)
    elsewhere = override(config, {"runtime.cpus_per_worker": 4.0, "tracking.experiment": "other"})
    assert sweep_identity(elsewhere, replace(SPACE, samples=20, concurrent=1)) == identity
    assert sweep_identity(config, replace(SPACE, seed=1)) != identity
    assert sweep_identity(override(config, {"seed": 1}), SPACE) != identity


def test_the_best_configuration_is_the_users_with_the_best_values(tmp_path: Path) -> None:
    trials = [trial(0, 0.3), trial(1, 0.7, 300), trial(2, 0.7, 200), trial(3, 0.9, state="stopped")]
    best = best_of(trials)
    assert best is not None and best.number == 2, "of equal scores the smaller one"
    write_best(tmp_path / "best.yaml", SMOKE, SPACE, best)
    config = load_config(file=tmp_path / "best.yaml")
    assert config == override(SMOKE, {"hypernet.heads": 1, **best.values})
    assert config.meta.optim.steps == SMOKE.meta.optim.steps, "trials alone are short"
    assert (tmp_path / "best.yaml").read_text().startswith(f"# Trial {best.name}: attribute_accuracy 0.7000 on the")
    assert best_of([trial(0, 0.3, state="failed")]) is None


def test_what_decides_the_score_is_the_important_field() -> None:
    trials = [trial(number, 0.9 if number % 2 else 0.1) for number in range(8)]
    shares = importances(trials, SPACE)
    assert LAYERS not in shares, "not every trial has it"
    assert shares[KIND] > 0.6 and sum(shares.values()) == pytest.approx(1.0)
    assert set(importances([trial(number, 0.5) for number in range(6)], SPACE).values()) == {0.0}


def test_plots_are_drawn_of_trials_that_lack_conditional_fields(tmp_path: Path) -> None:
    trials = [trial(number, 0.2 + 0.05 * number, 100.0 + 10 * (number % 3)) for number in range(6)]
    drawn = write_plots(tmp_path, trials, SPACE)
    assert [path.name for path in drawn] == ["parallel_coordinates.png", "pareto.png", "importance.png"]
    for path in drawn:
        with Image.open(path) as image:
            assert min(image.size) > 200 and len(image.convert("L").getcolors(maxcolors=256) or []) > 10
    assert [p.name for p in write_plots(tmp_path / "b", trials[:3:3] + trials[3:4], SPACE)] == [
        "parallel_coordinates.png"
    ]
    assert write_plots(tmp_path / "c", trials[:1], SPACE) == []


def test_projectors_are_shared_by_trials_that_read_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runtime.identities._content", lambda *_: "data")
    base = sweep_config(SMOKE, SPACE)
    assert len(pretrainings(base, SPACE, tmp_path)) == 1
    varied = SearchSpace(space={"projector.soft_tokens": Distribution(choice=(4, 8)), RATE: SPACE.space[RATE]})
    shared = pretrainings(base, varied, tmp_path)
    assert sorted(config.projector.soft_tokens for config in shared.values()) == [4, 8]
    ranged = SearchSpace(space={"projector.dropout": Distribution(uniform=(0.0, 0.5))})
    assert pretrainings(base, ranged, tmp_path) == {}


class Listener(NullTracker):
    """Keeps what a sweep's page is told."""

    def __init__(self) -> None:
        self.views: list[tuple[str, list[str], list[str]]] = []
        self.text = ""
        self.metrics: dict[str, float] = {}

    def log_view(self, name: str, kind: Kind, *, params: Sequence[str], metrics: Sequence[str]) -> str:
        self.views.append((name, list(params), list(metrics)))
        return "#/page?key=1"

    def describe(self, markdown: str) -> None:
        self.text = markdown

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.metrics |= values


def test_a_sweeps_page_leads_to_its_trials(tmp_path: Path) -> None:
    listener, records = Listener(), TrialRecords(tmp_path / "trials", SPACE)
    for number, score in enumerate((0.31234567, 0.7654321)):
        records.put(trial(number, score))
    run = Run(
        config=SMOKE,
        root=tmp_path,
        directory=tmp_path,
        tracker=listener,
        commit=cast("Commit", "feed"),
        verbose=False,
        peak=PeakRss(),
    )
    tune._report(run, SPACE, records, tmp_path)
    assert listener.views == [
        (f"Trials of {SMOKE.name}", list(SPACE.space), ["score", "loss", "deployed_parameters"]),
    ]
    assert "[Compare the trials](#/page?key=1&compareRunsMode=CHART), or [as a table](#/page?key=1)" in listener.text
    assert records.get(1).name in listener.text and listener.metrics == {"best_score": 0.7654}


def test_scores_in_tracking_are_short_and_in_the_record_whole(tmp_path: Path) -> None:
    records = TrialRecords(tmp_path / "trials", SPACE)
    record = records.put(trial(0, 0.31234567, 578253.0, state="running"))
    listener = Listener()
    monkey = SimpleNamespace(child=lambda *_, **__: listener)
    with SweepTracking(cast("Tracker", monkey), records, lambda *_, **__: None, (2,)) as watch:
        watch.begin(record)
        watch.report(record)
    assert listener.metrics == {"score": 0.3123, "deployed_parameters": 578253.0, "seconds": 1.0}
    assert records.get(0).score == 0.31234567

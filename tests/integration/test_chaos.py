"""Extraction that is killed at twenty random moments ends, after a rerun, in the bytes of a run that was left alone.

Minutes long, hence only by `make chaos`.  Ten runs lose their driver to SIGKILL and are started once more; ten lose an
encoder actor and must end well by themselves.  Moments are drawn one from each tenth: for every other driver of the
time that the run took when it was left alone, for the others of the shards on disk, for an actor of the time in which
there were any.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from pipeline.config.artifacts import STAGE_FILE
from pipeline.config.load import to_yaml
from pipeline.config.schema import ExperimentConfig, TrackingConfig
from pipeline.runtime.session import TEMP_PREFIX
from pipeline.shards import find_datasets, load_manifest, verify_dataset
from tests.drivers import Driver, carries_marker, start_driver
from tests.tiny_project import encoder, note_rows, save_text_model, tiny_config

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 20250904
ROWS = 8192
ROWS_PER_SHARD = 256
KILLS = 10
ACTOR = "_Encoder"

Stamps = dict[str, tuple[int, int]]  # inode and time of change of a file, by name


@dataclass(kw_only=True)
class Project:
    """Sources and models in a folder, and how to run the extraction on them."""

    folder: Path
    config: ExperimentConfig
    drivers: list[Driver] = field(default_factory=list)

    def start(self, name: str) -> Driver:
        """A driver whose outputs go to `<folder>/runs/<name>`."""
        file = self.folder / f"{name}.yaml"
        file.write_text(to_yaml(replace(self.config, name=name)), encoding="utf-8")
        arguments = ["--config", str(file)]
        log = self.folder / f"{name}.log"
        self.drivers.append(start_driver("extract_embeddings", arguments, log=log, marker=self.folder))
        return self.drivers[-1]

    def embeddings(self, name: str) -> Path:
        return self.folder / "runs" / name / "embeddings"

    def contents(self, name: str) -> dict[str, bytes]:
        """Every file of the datasets, hidden ones too; the stage's record tells seconds, which differ."""
        folder = self.embeddings(name)
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != STAGE_FILE)
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    def stamps(self, name: str) -> Stamps:
        """Of the shards that are finished."""
        folder = self.embeddings(name)
        stats = {path: path.stat() for path in folder.glob("*/*/shard-*.arrow")}
        return {str(path.relative_to(folder)): (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}

    def end(self) -> None:
        """Leave nothing behind, whatever failed."""
        for driver in self.drivers:
            driver.end()


@dataclass(kw_only=True)
class Reference:
    """The run that was left alone, and what became of the others."""

    project: Project
    contents: dict[str, bytes]
    seconds: float
    actors_s: tuple[float, float]
    """When the first encoder actor was seen, and when the last one."""
    reused: list[int] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    began = time.monotonic()
    folder = tmp_path_factory.mktemp("chaos")
    project = Project(folder=folder, config=_config(folder))
    try:
        reference = _left_alone(project)
        yield reference
    finally:
        project.end()
    print(
        f"\nchaos: {ROWS} rows, {len(reference.contents)} files; {reference.killed.count('driver')} drivers and "
        f"{reference.killed.count('actor')} actors killed; shards reused after a driver's death: "
        f"{sum(reference.reused)} ({', '.join(map(str, reference.reused))}); left alone {reference.seconds:.0f} s, "
        f"all {time.monotonic() - began:.0f} s"
    )


def _config(folder: Path) -> ExperimentConfig:
    rows = note_rows(ROWS)
    for row in (5, 4000, 8000):
        rows[row]["caption"] = " "
    config = tiny_config(folder, notes=rows, rows_per_shard=ROWS_PER_SHARD)
    (notes,) = config.datasets
    encoders = []
    for position, name in enumerate(("text-a", "text-b")):
        # Wide, and in small batches: extraction itself must last long enough to be hit.
        save_text_model(folder / "models" / name, width=384, seed=position)
        encoders.append(replace(encoder(name), path=str(folder / "models" / name), batch_size=4))
    source = replace(notes.source, path=str(folder / notes.source.path))
    return replace(
        config,
        runs_dir=str(folder / "runs"),
        datasets=(replace(notes, source=source, encoders=tuple(encoders)),),
        text_encoder=encoders[0],
        extract=replace(config.extract, actors=2),
        tracking=TrackingConfig(enabled=False),
    )


def _left_alone(project: Project) -> Reference:
    driver = project.start("alone")
    assert not driver.wait(stop=lambda: bool(driver.descendants(ACTOR))), "ended without an encoder actor"
    first = driver.seconds()
    driver.wait(stop=lambda: not driver.descendants(ACTOR))
    last = driver.seconds()
    assert driver.wait()
    seconds = driver.seconds()
    driver.finish()
    datasets = find_datasets(project.embeddings("alone"))
    assert [load_manifest(dataset).rows for dataset in datasets] == [ROWS - 3] * 2
    assert [len(load_manifest(dataset).shards) for dataset in datasets] == [ROWS // ROWS_PER_SHARD] * 2
    return Reference(project=project, contents=project.contents("alone"), seconds=seconds, actors_s=(first, last))


def _moment(stream: str, kill: int) -> float:
    """A fraction of the run's time, from the `kill`-th tenth of it."""
    return (kill + random.Random(f"{SEED} {stream} {kill}").random()) / KILLS


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_killed_driver_costs_only_what_was_not_finished(reference: Reference, kill: int) -> None:
    project, name = reference.project, f"driver-{kill}"
    among_shards, share = bool(kill % 2), _moment("driver", kill)
    moment, shards = share * reference.seconds, 1 + int(share * (2 * ROWS // ROWS_PER_SHARD - 2))
    while True:
        driver = project.start(name)
        if among_shards:
            ended = driver.wait(stop=lambda name=name: len(project.stamps(name)) >= shards)
        else:
            ended = driver.wait(moment)
        if not ended:
            break
        driver.finish()  # this machine was faster than before: earlier, in a fresh folder
        moment, name = 0.8 * moment, f"{name}-again"
    driver.kill()
    reference.killed.append("driver")
    if not among_shards:  # else the rerun begins beside what Ray has not ended yet
        driver.wait_until_gone()
    before = project.stamps(name)

    project.start(name).finish()
    driver.wait_until_gone()
    after = project.stamps(name)
    assert {shard: after.get(shard) for shard in before} == before
    assert before or not among_shards
    reference.reused.append(len(before))
    assert project.contents(name) == reference.contents


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_killed_actor_costs_nothing(reference: Reference, kill: int) -> None:
    project, name = reference.project, f"actor-{kill}"
    first, last = reference.actors_s
    offset = _moment("actor", kill) * (last - first)
    while True:
        driver = project.start(name)
        assert not driver.wait(stop=lambda driver=driver: bool(driver.descendants(ACTOR)))
        driver.wait(driver.seconds() + offset)
        if actors := driver.descendants(ACTOR):
            break
        driver.finish()  # this machine was faster than before: earlier, in a fresh folder
        offset, name = 0.8 * offset, f"{name}-again"
    victim = random.Random(f"{SEED} victim {kill}").choice(actors)
    victim.kill()
    before = project.stamps(name)
    reference.killed.append("actor")
    driver.finish()
    after = project.stamps(name)
    assert {shard: after.get(shard) for shard in before} == before
    assert project.contents(name) == reference.contents


def test_nothing_is_left_over(reference: Reference) -> None:
    project = reference.project
    assert reference.killed == ["driver"] * KILLS + ["actor"] * KILLS
    assert sum(reference.reused) > 0
    for run in sorted((project.folder / "runs").iterdir()):
        assert [verify_dataset(dataset) for dataset in find_datasets(run)] == [[], []]
        assert not [path for path in run.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".")]
    pids = {str(driver.process.pid) for driver in project.drivers}
    assert not [path for path in Path("/tmp").glob(f"{TEMP_PREFIX}*") if path.name.split("-")[2] in pids]
    assert not [process for process in psutil.process_iter() if carries_marker(process, project.folder)]

"""Extraction on Ray: the bytes of the local path, through crashes, repairs and errors of every kind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.schema import EncoderConfig, ExperimentConfig, TokensConfig
from pipeline.runtime import ray_data
from pipeline.runtime.session import Session
from pipeline.shards import EmbeddingDataset, verify_dataset
from pipeline.shards.extraction import ShardTask, extract_locally
from tests.source_kinds import WRITERS, pictures
from tests.tiny_project import note_rows, save_models, tiny_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder / "models"


@pytest.fixture
def config(tmp_path: Path, models: Path) -> ExperimentConfig:
    """Three (dataset, encoder) pairs in 16 shards, with bad rows."""
    (tmp_path / "models").symlink_to(models)
    rows = note_rows(40)
    rows[2]["caption"] = ""
    rows[30]["id"] = "note-1"
    config = tiny_config(tmp_path, notes=rows, tiles=44)
    (tmp_path / "files" / "7.png").write_bytes(b"no picture")
    return config


def quiet(*_: object) -> None:
    pass


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_ray_writes_the_bytes_of_the_local_path_and_repairs_them(tmp_path: Path, config: ExperimentConfig) -> None:
    progress: list[tuple[str, str, int, int]] = []
    notes, tiles_config = config.datasets
    tokens = replace(tiles_config.encoders[0], name="image-tokens", tokens=TokensConfig(count=3, reduce="merge"))
    tiles_config = replace(tiles_config, encoders=(*tiles_config.encoders, tokens))
    config = replace(config, datasets=(notes, tiles_config))
    local = extract_locally(config, tmp_path, tmp_path / "local", on_progress=quiet)
    out = tmp_path / "ray"
    assert ray_data.extract(config, tmp_path, out, on_progress=lambda *args: progress.append(args)) == local
    assert contents(out) == contents(tmp_path / "local")
    assert {args[:2]: args[2:] for args in progress} == {
        ("notes", "text-a"): (40, 40),
        ("notes", "text-b"): (40, 40),
        ("tiles", "image-a"): (44, 44),
        ("tiles", "image-tokens"): (44, 44),
    }
    assert EmbeddingDataset(out / "tiles" / "image-tokens").token_embeddings([0])[0].shape == (1, 3, 12)
    tiles = EmbeddingDataset(out / "tiles" / "image-a")
    assert tiles.manifest.rejected_by_reason == {"image cannot be decoded": 1}

    first, second = sorted((out / "notes" / "text-a").glob("shard-*.arrow"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    progress.clear()
    ray_data.extract(config, tmp_path, out, on_progress=lambda *args: progress.append(args))
    assert contents(out) == contents(tmp_path / "local")
    assert [args for args in progress if args[1] != "text-a"] == [
        ("notes", "text-b", 40, 40),
        ("tiles", "image-a", 44, 44),
        ("tiles", "image-tokens", 44, 44),
    ]


def test_every_kind_of_source_goes_through_ray(tmp_path: Path, config: ExperimentConfig) -> None:
    tiles = config.datasets[1]
    ready = EncoderConfig(name="ready", path="precomputed", width=4)
    datasets = [
        replace(
            tiles,
            name=name,
            kind="vector" if name == "embeddings" else "image",
            source=write(tmp_path),
            encoders=(ready,) if name == "embeddings" else tiles.encoders,
        )
        for name, write in WRITERS.items()
    ]
    config = replace(config, datasets=tuple(datasets))
    local = extract_locally(config, tmp_path, tmp_path / "local", on_progress=quiet)
    assert ray_data.extract(config, tmp_path, tmp_path / "ray", on_progress=quiet) == local
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert {name: manifest.rows for (name, _), manifest in local.items()} == dict.fromkeys(WRITERS, len(pictures()))


def test_a_killed_encoder_costs_nothing(tmp_path: Path, config: ExperimentConfig) -> None:
    from ray.util.state import list_actors

    killed: list[int] = []

    def kill_one(dataset: str, encoder: str, rows_done: int, rows_total: int) -> None:
        if rows_done and not killed:
            actors = list_actors(filters=[("state", "=", "ALIVE")])
            killed.extend(actor.pid for actor in actors if "Encoder" in actor.class_name)
            os.kill(killed[0], signal.SIGKILL)

    ray_data.extract(config, tmp_path, tmp_path / "ray", on_progress=kill_one)
    assert killed
    extract_locally(config, tmp_path, tmp_path / "local", on_progress=quiet)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def deadly_decode(batch: pa.Table, *, work: Any) -> pa.Table:
    """Stands for a row whose decoder crashes the process."""
    builder = ray_data._builder(work)
    decode: Callable[[ShardTask], Any] = type(builder).decode.__get__(builder)

    def crash(task: ShardTask) -> Any:
        if (task.dataset, task.spec.index) == (0, 1):
            os._exit(1)
        return decode(task)

    builder.decode = crash  # type: ignore[method-assign]
    return ray_data._decode(batch, work=work)


def test_rows_that_kill_their_process_each_time_end_the_run(
    tmp_path: Path, config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ray_data, "_decode", deadly_decode)
        with pytest.raises(ValueError, match=r"'notes': .* decode rows 8 to 15 of notes.jsonl died 3 times"):
            ray_data.extract(config, tmp_path, tmp_path / "ray", on_progress=quiet)
    assert not (tmp_path / "ray" / ".attempts").exists()


def test_what_the_user_can_mend_comes_as_a_value_error(tmp_path: Path, config: ExperimentConfig) -> None:
    notes = config.datasets[0]
    wrong = replace(notes.encoders[1], width=7)
    wide = replace(config, datasets=(replace(notes, encoders=(notes.encoders[0], wrong)),))
    with pytest.raises(ValueError, match=r"^encoder 'text-b': width is 7 in the configuration, but .* gives 24 values"):
        ray_data.extract(wide, tmp_path, tmp_path / "ray", on_progress=quiet)

    strict = replace(config, extract=replace(config.extract, max_rejected_fraction=0.01))
    with pytest.raises(ValueError, match=r"1 of 44 rows were rejected|2 of 40 rows were rejected|1 of 40"):
        ray_data.extract(strict, tmp_path, tmp_path / "ray", on_progress=quiet)

    ray_data.extract(config, tmp_path, tmp_path / "ray", on_progress=quiet)
    for name in ("notes/text-a", "notes/text-b", "tiles/image-a"):
        assert verify_dataset(tmp_path / "ray" / name) == []


def test_more_than_the_cluster_holds_is_refused_with_the_arithmetic(
    tmp_path: Path, config: ExperimentConfig, cluster: Session
) -> None:
    large = replace(config, extract=replace(config.extract, cpus_per_actor=1.5))
    with pytest.raises(ValueError, match=r"cannot hold one process of 1.5 CPU .* beside 1 CPU of other work: it has 2"):
        ray_data.extract(large, tmp_path, tmp_path / "ray", on_progress=quiet)

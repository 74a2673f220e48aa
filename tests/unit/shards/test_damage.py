"""Damage of any kind is found by `verify_dataset`, and by the reader before a row of a bad shard is served."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.shards import EmbeddingDataset, find_datasets, verify_dataset
from pipeline.shards.manifest import MANIFEST_FILE, _canonical
from tests.tiny_project import note_rows
from tests.unit.shards.conftest import extract_rows


@pytest.fixture
def directory(tmp_path: Path, hash_encoders: None) -> Path:
    rows = note_rows(40)
    rows[3]["caption"] = " "
    extract_rows(tmp_path, rows)
    return tmp_path / "out" / "notes" / "text-b"


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def swap(path: Path, rng: random.Random) -> None:
    other = rng.choice([file for file in sorted(path.parent.iterdir()) if file != path])
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, truncate, delete, swap])
def test_damage_is_found_before_a_row_is_served(
    directory: Path, tmp_path: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    rng = random.Random(7)
    whole = EmbeddingDataset(directory).ids(range(39))
    names = sorted(file.name for file in directory.iterdir())
    for attempt in range(60):
        damaged = tmp_path / f"damaged-{attempt}"
        shutil.copytree(directory, damaged)
        name = rng.choice(names)
        damage(damaged / name, rng)
        problems = verify_dataset(damaged)
        assert problems, name
        assert len({problem.file for problem in problems}) == len(problems)
        if name.endswith(".parquet"):
            continue  # the reader serves no row from it
        with pytest.raises(ValueError, match=r"extract|manifest"):
            assert EmbeddingDataset(damaged).ids(range(39)) == whole
        shutil.rmtree(damaged)


def test_an_undamaged_shard_is_served_beside_a_damaged_one(directory: Path) -> None:
    path = sorted(directory.glob("shard-*.arrow"))[1]
    flip(path, random.Random(0))
    dataset = EmbeddingDataset(directory)
    assert dataset.ids([0])
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*: no row of it is served"):
        dataset.embeddings([8])
    assert [(problem.file, problem.problem.split(" (")[0]) for problem in verify_dataset(directory)] == [
        (path.name, "is damaged")
    ]


def test_a_missing_manifest_says_what_to_run(directory: Path) -> None:
    (directory / MANIFEST_FILE).unlink()
    with pytest.raises(ValueError, match="holds no embedding dataset .*run jobs.extract_embeddings first"):
        EmbeddingDataset(directory)
    assert find_datasets(directory.parent) == [directory.parent / "text-a", directory]
    assert "holds no embedding dataset" in verify_dataset(directory)[0].problem


def forge(directory: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change the manifest as somebody would who also knows how to make its checksum."""
    fields = json.loads((directory / MANIFEST_FILE).read_text())
    fields.pop("checksum")
    change(fields)
    (directory / MANIFEST_FILE).write_text(_canonical(fields))


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_one_clear_error(directory: Path, version: object) -> None:
    forge(directory, lambda fields: fields.update(format_version=version))
    with pytest.raises(ValueError, match=f"format version is {version!r}, this code reads version 1: extract the"):
        EmbeddingDataset(directory)


@pytest.mark.parametrize(
    "name", ["../secret.arrow", "/etc/passwd", "a/shard-00000-0123456789abcdef.arrow", "shard-00000-..arrow", "", "."]
)
def test_names_that_are_no_plain_shard_names_are_refused(directory: Path, name: str) -> None:
    def rename(fields: dict[str, object]) -> None:
        shards = fields["shards"]
        assert isinstance(shards, list)
        shards[0]["name"] = name

    forge(directory, rename)
    with pytest.raises(ValueError, match="shard name .* is refused"):
        EmbeddingDataset(directory)


def test_the_rejected_file_cannot_be_elsewhere(directory: Path) -> None:
    forge(directory, lambda fields: fields["rejected"].update(name="../other"))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"must lie in rejected.parquet, got '../other'"):
        EmbeddingDataset(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 7}, "rows is 7, but shards or splits add up"),
        ({"shards": []}, "add up to another number"),
        ({"rejected_by_reason": {}}, "rejected rows and their reasons"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"dtype": "bfloat16"}, "dtype: expected 'float32' or 'float16', got 'bfloat16'"),
    ],
)
def test_a_manifest_that_does_not_add_up_is_refused(directory: Path, change: dict[str, object], message: str) -> None:
    forge(directory, lambda fields: fields.update(change))
    with pytest.raises(ValueError, match=message):
        EmbeddingDataset(directory)


def test_a_shard_that_its_manifest_describes_wrongly_is_refused(directory: Path) -> None:
    forge(directory, lambda fields: fields["encoder"].update(width=4))  # type: ignore[attr-defined]
    assert [problem.file for problem in verify_dataset(directory)] == [
        file.name for file in sorted(directory.glob("shard-*.arrow"))
    ]
    with pytest.raises(ValueError, match="does not hold what the manifest says"):
        EmbeddingDataset(directory).embeddings([0])

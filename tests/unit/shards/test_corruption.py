"""Two hundred random damages to the files of a dataset, and one at every kind of place in them.

Each is found by `verify_dataset`, and by the reader before it serves a row of a damaged shard; whole shards are served.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.shards import EmbeddingDataset, verify_dataset
from pipeline.shards.manifest import MANIFEST_FILE, REJECTED_FILE, _canonical, load_manifest, parse_manifest
from tests.tiny_project import note_rows
from tests.unit.shards.conftest import contents, extract_rows, use_hash_encoders

DAMAGES = 200
ROWS = 60

Damage = Callable[[Path, random.Random], None]
"""Damages some of the dataset's files."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A dataset of eight shards with rejected rows; the tests damage copies of it."""
    folder = tmp_path_factory.mktemp("corruption")
    rows = note_rows(ROWS)
    rows[3]["caption"] = " "
    rows[20]["text"] = "zero"
    with pytest.MonkeyPatch.context() as patch:
        use_hash_encoders(patch)
        extract_rows(folder, rows)
    yield folder / "out" / "notes" / "text-b"


def _file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.iterdir()))


def flip(folder: Path, rng: random.Random) -> None:
    file = _file(folder, rng)
    flip_bit(file, rng.randrange(file.stat().st_size), rng.randrange(8))


def flip_bit(file: Path, position: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def truncate(folder: Path, rng: random.Random) -> None:
    file = _file(folder, rng)
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def delete(folder: Path, rng: random.Random) -> None:
    _file(folder, rng).unlink()


def swap_contents(folder: Path, rng: random.Random) -> None:
    first, second = rng.sample(sorted(folder.iterdir()), 2)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def swap_names(folder: Path, rng: random.Random) -> None:
    first, second = rng.sample(sorted(folder.glob("shard-*.arrow")), 2)
    between = folder / "between"
    first.rename(between)
    second.rename(first)
    between.rename(second)


def test_two_hundred_random_damages(whole: Path, tmp_path: Path) -> None:
    rng = random.Random(20250904)
    before = contents(whole)
    tables = list(EmbeddingDataset(whole).tables())
    kinds: list[Damage] = [flip, truncate, delete, swap_contents, swap_names]
    hit: set[tuple[str, str]] = set()
    for attempt in range(DAMAGES):
        damaged = tmp_path / str(attempt)
        shutil.copytree(whole, damaged)
        damage = kinds[attempt % len(kinds)]
        damage(damaged, rng)
        after = contents(damaged)
        bad = {name for name, content in before.items() if after.get(name) != content}
        assert bad, "equal bytes are no damage: choose files that differ"
        expect_found(damaged, bad, tables)
        hit |= {(damage.__name__, name.partition("-")[0]) for name in bad}
        shutil.rmtree(damaged)
    places = {(kind.__name__, place) for kind in kinds for place in ("shard", REJECTED_FILE, MANIFEST_FILE)}
    assert hit == places - {("swap_names", REJECTED_FILE), ("swap_names", MANIFEST_FILE)}


def expect_found(damaged: Path, bad: set[str], tables: list[pa.Table]) -> None:
    """Verification names the damaged files; the reader serves the other shards, as they were, and nothing else."""
    found = {problem.file for problem in verify_dataset(damaged)}
    if MANIFEST_FILE in bad:
        assert found == {MANIFEST_FILE}
        with pytest.raises(ValueError, match="is damaged or was changed by hand|format version is|holds no embedding"):
            EmbeddingDataset(damaged)
        return
    assert found == bad
    start = 0
    for shard, entry in enumerate(load_manifest(damaged).shards):
        row = [start]
        start += entry.rows
        for read in readings(shard, row):
            dataset = EmbeddingDataset(damaged)
            if entry.name in bad:
                with pytest.raises(ValueError, match="no row of it is served"):
                    read(dataset)
            else:
                read(dataset)
                assert dataset.table(shard).equals(tables[shard])
    passed = [table.equals(tables[shard]) for shard, table in _until_refused(damaged)]
    assert passed == [True] * next(
        (shard for shard, entry in enumerate(load_manifest(damaged).shards) if entry.name in bad), len(tables)
    )


def readings(shard: int, row: list[int]) -> list[Callable[[EmbeddingDataset], object]]:
    """Every way to a row of a shard."""
    return [
        lambda dataset: dataset.embeddings(row),
        lambda dataset: dataset.text_embeddings(row * 2000),
        lambda dataset: dataset.ids(row),
        lambda dataset: dataset.captions(row),
        lambda dataset: dataset.attributes(row),
        lambda dataset: dataset.take(row),
        lambda dataset: dataset.table(shard),
        lambda dataset: dataset.vectors(shard),
    ]


def _until_refused(damaged: Path) -> Iterator[tuple[int, pa.Table]]:
    try:
        yield from enumerate(EmbeddingDataset(damaged).tables())
    except ValueError as error:
        assert "no row of it is served" in str(error)


def test_a_flip_at_every_kind_of_place(whole: Path, tmp_path: Path) -> None:
    file = sorted(whole.glob("shard-*.arrow"))[1]
    tables = list(EmbeddingDataset(whole).tables())
    places = shard_places(file.read_bytes())
    assert {"embedding", "text_embedding", "id offsets", "schema", "batch metadata", "footer"} <= places.keys()
    for place, positions in places.items():
        for position in {positions[0], positions[len(positions) // 2], positions[-1]}:
            damaged = tmp_path / f"{place} {position}"
            shutil.copytree(whole, damaged)
            flip_bit(damaged / file.name, position, position % 8)
            expect_found(damaged, {file.name}, tables)
            shutil.rmtree(damaged)


def shard_places(content: bytes) -> dict[str, range]:
    """Where the parts of an Arrow IPC file lie."""
    buffer = pa.py_buffer(content)
    reader = pa.ipc.open_file(buffer)
    batch = reader.get_batch(0)
    footer = int.from_bytes(content[-10:-6], "little")
    schema_end = 16 + int.from_bytes(content[12:16], "little")
    batch_end = schema_end + 8 + int.from_bytes(content[schema_end + 4 : schema_end + 8], "little")
    places = {
        "magic": range(6),
        "padding": range(6, 8),
        "schema length": range(8, 16),
        "schema": range(16, schema_end),
        "batch length": range(schema_end, schema_end + 8),
        "batch metadata": range(schema_end + 8, batch_end),
        "footer": range(len(content) - 10 - footer, len(content) - 10),
        "footer length": range(len(content) - 10, len(content) - 6),
        "last magic": range(len(content) - 6, len(content)),
    }
    for name, which in (("id", 1), ("id", 2), ("caption", 1), ("embedding", -1), ("text_embedding", -1)):
        column = batch.column(reader.schema.names.index(name)).buffers()[which]
        start = column.address - buffer.address
        assert batch_end <= start < start + column.size <= len(content) - footer
        label = {1: f"{name} offsets", 2: f"{name} text", -1: name}[which]
        places[label] = range(start, start + column.size)
    return places


def test_a_flip_of_any_byte_of_the_manifest(whole: Path) -> None:
    content = (whole / MANIFEST_FILE).read_bytes()
    rng = random.Random(1)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        with pytest.raises(ValueError, match="damaged or was changed|format version"):
            parse_manifest(bytes(damaged), "m")
    assert parse_manifest(content, "m") == load_manifest(whole)


def forge(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as somebody would who also knows how to make its checksum."""
    fields = json.loads((directory / MANIFEST_FILE).read_text())
    fields.pop("checksum")
    change(fields)
    (directory / MANIFEST_FILE).write_text(_canonical(fields))


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.mark.parametrize("template", ["../{}", "{}/../../{}", "..", "/{}", "./{}", "sub/{}", "sub\\{}", "{}\0", "{} "])
@pytest.mark.parametrize("recomputed", [True, False])
def test_a_name_that_leads_elsewhere_is_refused(directory: Path, template: str, recomputed: bool) -> None:
    name = sorted(directory.glob("shard-*.arrow"))[0].name
    wrong = template.format(name, name) if template != "/{}" else str(directory / name)
    shutil.copy(directory / name, directory.parent / name)
    if recomputed:
        forge(directory, lambda fields: fields["shards"][0].update(name=wrong))
    else:
        text = (directory / MANIFEST_FILE).read_text()
        (directory / MANIFEST_FILE).write_text(text.replace(json.dumps(name), json.dumps(wrong)))
    message = "shard name .* is refused" if recomputed else "its checksum does not match"
    with pytest.raises(ValueError, match=message):
        EmbeddingDataset(directory)
    assert [problem.file for problem in verify_dataset(directory)] == [MANIFEST_FILE]


@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_that_leaves_the_folder_is_refused(directory: Path, absolute: bool) -> None:
    for file in [sorted(directory.glob("shard-*.arrow"))[2], directory / REJECTED_FILE]:
        elsewhere = directory.parent / file.name
        file.rename(elsewhere)
        file.symlink_to(elsewhere if absolute else Path("..") / file.name)
    linked = [file.name for file in directory.iterdir() if file.is_symlink()]
    assert len(linked) == 2
    assert {problem.file: problem.problem for problem in verify_dataset(directory)} == dict.fromkeys(
        linked, "is a link to a file outside its folder"
    )
    dataset = EmbeddingDataset(directory)
    assert dataset.ids([0])
    with pytest.raises(ValueError, match=r"is a link to a file outside its folder: no row of it is served"):
        dataset.table(2)


def test_a_link_with_a_forged_manifest_is_refused(directory: Path) -> None:
    """The manifest describes a file elsewhere, its hash and all."""
    secret = directory.parent / "secret"
    secret.write_bytes(b"not for readers of this dataset")
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    name = f"shard-00000-{digest[:16]}.arrow"
    (directory / name).symlink_to(secret)
    forge(directory, lambda fields: fields["shards"][0].update(name=name, bytes=secret.stat().st_size, sha256=digest))
    assert [problem.file for problem in verify_dataset(directory)] == [name]
    with pytest.raises(ValueError, match="is a link to a file outside its folder"):
        EmbeddingDataset(directory).table(0)


def test_a_linked_folder_is_read(directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)
    assert verify_dataset(link) == []
    assert EmbeddingDataset(link).ids([0]) == EmbeddingDataset(directory).ids([0])


def test_shards_in_another_order_under_a_forged_manifest_are_found(directory: Path) -> None:
    """Every hash is right, only the rows are not where they were."""

    def exchange(fields: dict[str, Any]) -> None:
        first, second = fields["shards"][:2]
        for index, entry in enumerate((second, first)):
            name = f"shard-{index:05d}-{entry['sha256'][:16]}.arrow"
            (directory / entry["name"]).rename(directory / name)
            entry["name"] = name
        fields["shards"][:2] = second, first

    forge(directory, exchange)
    problems = verify_dataset(directory)
    assert [problem.problem.partition(" (")[1] for problem in problems] == [" ("]
    assert "not in the order of their source" in problems[0].problem


def test_an_extraction_replaces_a_link(tmp_path: Path, hash_encoders: None) -> None:
    rows = note_rows(20)
    extract_rows(tmp_path, rows)
    before = contents(tmp_path / "out")
    file = sorted((tmp_path / "out" / "notes" / "text-a").glob("shard-*.arrow"))[0]
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    extract_rows(tmp_path, rows)
    assert not file.is_symlink()
    assert contents(tmp_path / "out") == before

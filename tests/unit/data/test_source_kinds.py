"""Every kind of source serves the same samples, here and in a bucket."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.data.sample import Sample
from pipeline.data.sources import BadRow, Source, open_source
from tests.s3_server import upload, uri
from tests.source_kinds import WRITERS, pictures, vector_of

KINDS = list(WRITERS)
INPUTS = {
    "parquet": ".parquet",
    "jsonl": ".jsonl .png",
    "csv": ".csv .png",
    "directory": ".png .json",
    "webdataset": ".tar",
    "hf_dataset": ".arrow",
    "embeddings": ".parquet",
}
"""What each kind's rows are made of."""


def all_rows(source: Source) -> list[Sample | BadRow]:
    return list(source.read(0, len(source)))


def without_place(source: Source) -> list[Sample | BadRow]:
    return [replace(row, source="") for row in all_rows(source)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_serves_the_samples(tmp_path: Path, kind: str) -> None:
    source = open_source(WRITERS[kind](tmp_path), tmp_path)
    assert without_place(source) == [
        Sample(
            id=one.id,
            payload=vector_of(one) if kind == "embeddings" else one.png,
            captions=(one.caption,),
            attributes={"side": one.side},
            split=one.split,
            source="",
        )
        for one in pictures()
    ]
    assert list(source.ids()) == [one.id for one in pictures()]


@pytest.mark.parametrize("kind", KINDS)
def test_any_row_range_and_any_process_read_the_same_rows(tmp_path: Path, kind: str) -> None:
    source = open_source(WRITERS[kind](tmp_path), tmp_path)
    whole = all_rows(source)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - how Ray ships a source to its workers
    assert len(pickle.dumps(source)) < 1000
    assert copy.fingerprint() == source.fingerprint()
    for start in range(len(whole) + 1):
        for stop in range(start, len(whole) + 1):
            assert list(copy.read(start, stop)) == whole[start:stop]
    with pytest.raises(ValueError, match=r"row range \[5, 8\) is outside of table .* with 7 rows"):
        list(source.read(5, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_changes_with_every_file_and_with_nothing_else(tmp_path: Path, kind: str) -> None:
    config = WRITERS[kind](tmp_path)
    seen = {open_source(config, tmp_path).fingerprint()}
    assert open_source(config, tmp_path).fingerprint() in seen
    assert open_source(replace(config, path=f"{tmp_path}/{config.path}"), tmp_path).fingerprint() in seen
    assert open_source(replace(config, path=f"file://{tmp_path}/{config.path}"), tmp_path).fingerprint() in seen
    inputs = [file for file in sorted(tmp_path.rglob("*")) if file.suffix in INPUTS[kind].split()]
    assert inputs
    for number, file in enumerate(inputs):
        if file.suffix == ".parquet":
            pq.write_table(pq.read_table(file), file, compression="none")
        elif file.suffix in (".jsonl", ".csv"):
            file.write_bytes(file.read_bytes().replace(b"circle", b"square", 1))
        else:
            os.utime(file, ns=(number, number))
        fingerprint = open_source(config, tmp_path).fingerprint()
        assert fingerprint not in seen, file
        seen.add(fingerprint)
    assert open_source(replace(config, attribute_fields=()), tmp_path).fingerprint() not in seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_serves_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, kind: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "here"
    folder.mkdir()
    config = WRITERS[kind](folder)
    upload(endpoint, folder, "there")
    remote = replace(config, path=uri(endpoint, f"there/{config.path}"))
    source = open_source(remote, tmp_path)
    assert without_place(source) == without_place(open_source(config, folder))
    assert list(source.ids()) == [one.id for one in pictures()]
    assert all(row.source.startswith("s3://bucket/there/") and "?" not in row.source for row in all_rows(source))
    before = source.fingerprint()
    assert open_source(remote, tmp_path).fingerprint() == before
    assert list(pickle.loads(pickle.dumps(source)).read(2, 4)) == all_rows(source)[2:4]  # noqa: S301
    files = [file for file in folder.rglob("*") if file.suffix in (".png", ".tar", ".arrow", ".parquet")]
    with files[0].open("ab") as stream:
        stream.write(bytes(512))
    upload(endpoint, folder, "there")
    try:
        assert open_source(remote, tmp_path).fingerprint() != before
    except ValueError as error:
        assert "not a readable Parquet file" in str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["here", "there"])
def test_what_is_not_there_fails_at_opening(tmp_path: Path, endpoint: str, kind: str, where: str) -> None:
    config = WRITERS[kind](tmp_path)
    upload(endpoint, tmp_path, "there")
    path = "no-such/thing.tar" if where == "here" else uri(endpoint, "no-such/thing.tar")
    with pytest.raises(
        ValueError, match=r"source\.(path|revision): .*no-such/thing\.tar.* (does not exist|is no folder)"
    ):
        open_source(replace(config, path=path), tmp_path)


@pytest.mark.parametrize("path", ["nosuch://bucket/x.tar", "s3://bad host/x.tar"])
def test_a_uri_that_cannot_be_opened_is_one_line(tmp_path: Path, path: str) -> None:
    config = WRITERS["webdataset"](tmp_path)
    with pytest.raises(ValueError, match=r"source\.path: .* cannot be opened .*give a path of this machine") as raised:
        open_source(replace(config, path=path), tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_not_there_fails_at_opening(tmp_path: Path, kind: str) -> None:
    config = WRITERS[kind](tmp_path)
    for change in ({"caption_field": "text"}, {"attribute_fields": ("hue",)}):
        with pytest.raises(ValueError, match=r"has no column|have no field") as raised:
            open_source(replace(config, **change), tmp_path)
        assert "'side'" in str(raised.value)

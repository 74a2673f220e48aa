"""Places: what a URI shows, what is fetched, and which failures are a row's and which the run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from pyarrow import fs
from pydantic import ValidationError

from pipeline.config.schema import SourceConfig
from pipeline.data import sources
from pipeline.data.places import LocalPlace, RemotePlace, place_at
from pipeline.data.requests import in_order
from pipeline.data.sample import Sample
from pipeline.data.sources import BadRow, open_source
from pipeline.data.sources.table import TableSource
from tests.s3_server import BUCKET, upload, uri


def jsonl(folder: Path, names: list[str]) -> SourceConfig:
    rows = [{"id": str(index), "file": name, "caption": "x"} for index, name in enumerate(names)]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(kind="jsonl", path="t.jsonl")


def test_paths_start_at_the_root_and_file_uris_do_not(tmp_path: Path) -> None:
    assert place_at("a/b", tmp_path).name == f"{tmp_path}/a/b"
    assert place_at("/a/b", tmp_path).name == "/a/b"
    place = place_at("file:///a/b%20c", tmp_path)
    assert isinstance(place, LocalPlace)
    assert place.path == Path("/a/b c")


def test_a_password_is_refused_and_never_shown() -> None:
    with pytest.raises(ValidationError) as raised:
        SourceConfig(kind="csv", path="s3://key:secret@bucket/t.csv")
    (error,) = raised.value.errors()
    assert "path carries a password" in error["msg"] and "secret" not in error["msg"]


def test_a_remote_table_is_fetched_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = tmp_path / "here"
    here.mkdir()
    jsonl(here, ["a"])
    upload(endpoint, here, "there")
    place = place_at(uri(endpoint, "there/t.jsonl"), tmp_path)
    first = place.local_copy()
    assert first.read_bytes() == (here / "t.jsonl").read_bytes()
    first.write_bytes(b"still here")
    assert place.local_copy().read_bytes() == b"still here"
    jsonl(here, ["b"])
    upload(endpoint, here, "there")
    assert place.local_copy().read_bytes() == (here / "t.jsonl").read_bytes()
    assert len(list((tmp_path / "cache" / "semi-sources").iterdir())) == 2


def test_a_payload_missing_from_the_bucket_is_a_bad_row_and_a_traversal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = tmp_path / "here"
    here.mkdir()
    config = jsonl(here, ["a.bin", "none.bin", "../other/secret", "/etc/passwd"])
    (here / "a.bin").write_bytes(b"payload")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret").write_bytes(b"outside")
    upload(endpoint, here, "there")
    upload(endpoint, tmp_path / "other", "other")
    source = open_source(SourceConfig(kind="jsonl", path=uri(endpoint, f"there/{config.path}")), tmp_path)
    found = list(source.read(0, 4))
    assert isinstance(found[0], Sample)
    assert found[0].payload == b"payload"
    assert [row.reason for row in found if isinstance(row, BadRow)] == [
        "file 'none.bin' cannot be read: No such file or directory",
        "path '../other/secret' leaves the table's folder",
        "path '/etc/passwd' leaves the table's folder",
    ]
    before = source.fingerprint()
    boto3.client("s3", endpoint_url=f"http://{endpoint}").put_object(Bucket=BUCKET, Key="there/none.bin", Body=b"now")
    assert source.fingerprint() != before


class BrokenNetwork(fs.FileSystemHandler):  # type: ignore[misc]
    """A store that lists its files and cannot be read."""

    def _fail(self, *_: Any) -> Any:
        raise OSError("connection reset")

    def get_type_name(self) -> str:
        return "broken"

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [fs.FileInfo(path, type=fs.FileType.File, size=3) for path in paths]

    def normalize_path(self, path: str) -> str:
        return path

    open_input_stream = open_input_file = open_output_stream = open_append_stream = _fail
    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = delete_file = _fail
    delete_root_dir_contents = move = copy_file = _fail


def test_a_network_that_fails_stops_the_run_instead_of_rejecting_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(jsonl(tmp_path, ["a.bin"]), tmp_path)
    store = fs.PyFileSystem(BrokenNetwork())
    monkeypatch.setattr(LocalPlace, "parent", lambda self: RemotePlace(store, "bucket", "s3://bucket"))
    with pytest.raises(OSError, match="connection reset"):
        list(source.read(0, 1))


def test_results_of_many_requests_come_in_order_and_errors_in_their_place() -> None:
    assert list(in_order(str, range(100), remote=True)) == list(map(str, range(100)))
    results = in_order(lambda value: 1 // value, [1, 1, 0, 1], remote=True)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_store_out_of_reach_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_SOURCES", {"jsonl": OutOfReach})
    with pytest.raises(ValueError, match=r"source\.path: s3://bucket/t\.jsonl cannot be read: no route to host$"):
        open_source(SourceConfig(kind="jsonl", path="s3://user@bucket/t.jsonl?scheme=http"), tmp_path)


class OutOfReach(TableSource):
    def check(self) -> None:
        raise OSError("no route\n to host")

"""Folders and tars: captions in every form, and the reason of every row that cannot be one."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.config.schema import SourceConfig
from pipeline.data.decoders import decode
from pipeline.data.sample import Sample
from pipeline.data.sources import BadRow, Source, open_source
from tests.source_kinds import add_members, png, save_split

GOOD = {"good.png": b"x", "good.txt": b"fine"}


def outcome(source: Source) -> dict[str, str | None]:
    """Reason by id; None where the row is good."""
    return {row.id: row.reason if isinstance(row, BadRow) else None for row in source.read(0, len(source))}


def samples(source: Source) -> dict[str, Sample]:
    return {row.id: row for row in source.read(0, len(source)) if isinstance(row, Sample)}


def directory(root: Path, files: Mapping[str, bytes], **changes: Any) -> Source:
    for name, content in files.items():
        path = root / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return open_source(SourceConfig(kind="directory", path="d", **changes), root)


def webdataset(root: Path, files: Mapping[str, bytes], name: str = "t.tar", **changes: Any) -> Source:
    with tarfile.open(root / name, "w") as archive:
        add_members(archive, files)
    return open_source(SourceConfig(kind="webdataset", path=name, **changes), root)


BOTH = pytest.mark.parametrize("opened", [directory, webdataset])


@BOTH
def test_captions_come_as_lines_or_as_fields(tmp_path: Path, opened: Any) -> None:
    source = opened(
        tmp_path,
        {
            "a.png": b"1",
            "a.txt": "\ufeff one \r\n\r\ntwo\u2028still two\n".encode(),
            "b.png": b"2",
            "b.json": json.dumps({"caption": ["x", " ", "y"], "hue": 3}).encode(),
            "c.PNG": b"3",
            "c.json": json.dumps({"hue": None}).encode(),
            "c.txt": b"beside",
        },
    )
    assert {name: (row.captions, row.payload) for name, row in samples(source).items()} == {
        "a": (("one", "two\u2028still two"), b"1"),
        "b": (("x", "y"), b"2"),
        "c": (("beside",), b"3"),
    }
    hues = opened(
        tmp_path, {"b.png": b"2", "b.json": b'{"caption": "x", "hue": 3}', "z.png": b"", "z.txt": b"x"},
        attribute_fields=("hue",),
    )  # fmt: skip
    assert samples(hues)["b"].attributes == {"hue": "3"}
    assert outcome(hues)["z"] == "has no field 'hue'"


@BOTH
@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.png": b"x"}, "has no caption file"),
        ({"a.txt": b"x"}, "has no payload file"),
        ({"a.png": b"x", "a.jpg": b"x", "a.txt": b"x"}, "has 2 payload files, a sample has one: 'jpg', 'png'"),
        ({"a.png": b"x", "a.txt": b" \n\n"}, "empty caption"),
        ({"a.png": b"x", "a.txt": b"\xff\xfe"}, "caption file is not UTF-8"),
        ({"a.png": b"x", "a.json": b'{"caption": "\xff"}'}, "caption file is not UTF-8"),
        ({"a.png": b"x", "a.json": b'{"caption": "\\ud800"}'}, "caption is not UTF-8"),
        ({"a.png": b"x", "a.json": b"[1]"}, "caption file is not a JSON object"),
        ({"a.png": b"x", "a.json": b"{"}, "caption file is not JSON: Expecting property name"),
        ({"a.png": b"x", "a.json": b"9" * 5000}, "caption file is not JSON: Exceeds the limit"),
        ({"a.png": b"x", "a.json": b"[" * 100_000}, "caption file is not JSON: maximum recursion"),
        ({"a.png": b"x", "a.json": b'{"text": "x"}'}, "has no field 'caption'"),
        ({"a.png": b"x", "a.json": b'{"caption": 3}'}, "field 'caption' is neither text nor a list of texts"),
        ({"a.png": b"", "a.txt": b"x"}, "payload file is empty"),
        ({"a.png": b"x", "a.txt": b"x" * (2**24 + 1)}, "caption file has 16777217 bytes, at most 16777216 are read"),
    ],
)
def test_bad_samples_say_why(tmp_path: Path, opened: Any, files: dict[str, bytes], reason: str) -> None:
    found = outcome(opened(tmp_path, {**GOOD, **files}))
    assert found["good"] is None
    assert (found["a"] or "").startswith(reason)


@BOTH
def test_only_the_named_extensions_are_payloads(tmp_path: Path, opened: Any) -> None:
    files = {"a.png": b"1", "a.url": b"2", "a.txt": b"x", "b.JPG": b"3", "b.txt": b"x", ".hidden": b"", "x/.DS": b""}
    source = opened(tmp_path, files, payload_field="png, .jpg")
    assert {name: row.payload for name, row in samples(source).items()} == {"a": b"1", "b": b"3"}
    assert len(source) == 2


@BOTH
def test_a_source_without_samples_or_with_a_foreign_setting_fails_at_opening(tmp_path: Path, opened: Any) -> None:
    with pytest.raises(ValueError, match=r"source\.path: .* (has no samples|does not exist)"):
        opened(tmp_path, {".hidden": b""} if opened is webdataset else {})
    if opened is directory:
        with pytest.raises(ValueError, match="has no samples"):
            opened(tmp_path, {".hidden": b""})
    with pytest.raises(ValueError, match=r"source\.payload: kind '\w+' takes its payload from files, got 'inline'"):
        opened(tmp_path, GOOD, payload="inline")
    with pytest.raises(ValueError, match=r"the \.json files of .* have no field 'hue'; they have \[\]"):
        opened(tmp_path, GOOD, attribute_fields=("hue",))


def test_the_first_folder_names_the_split(tmp_path: Path) -> None:
    names = ("val/a", "validation/b", "test/c", "train/d", "other/test/e", "f", "testing/g")
    files = {f"{name}.{end}": b"x" for name in names for end in ("png", "txt")}
    assert {name: row.split for name, row in samples(directory(tmp_path, files)).items()} == {
        "f": "train",
        "other/test/e": "train",
        "test/c": "test",
        "testing/g": "train",
        "train/d": "train",
        "val/a": "validation",
        "validation/b": "validation",
    }


def test_names_with_dots_and_links_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.png").write_bytes(b"linked")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "dangling.png").symlink_to(tmp_path / "nothing")
    files = {"a.b.png": b"1", "a.b.txt": b"x", "a.png": b"2", "a.txt": b"y", "link.txt": b"z", "dangling.txt": b"z"}
    source = directory(tmp_path, files)
    assert {name: row.payload for name, row in samples(source).items()} == {"a": b"2", "a.b": b"1", "link": b"linked"}
    assert outcome(source)["dangling"] == "file 'dangling.png' cannot be read: No such file or directory"


def test_a_file_name_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for end in (b"png", b"txt"):
        Path(str(tmp_path) + "/d/" + (b"\xff." + end).decode("utf-8", "surrogateescape")).write_bytes(b"x")
    source = directory(tmp_path, GOOD)
    assert outcome(source) == {"good": None, "row-1": "file name is not UTF-8"}
    assert list(source.ids()) == ["good", "row-1"]


def test_members_of_a_key_may_lie_apart(tmp_path: Path) -> None:
    files = {"x/a.png": b"1", "x/b.png": b"2", "./x/a.txt": b"one", "x/b.seg.png": b"no", "x/b.txt": b"two"}
    source = webdataset(tmp_path, files, payload_field="png")
    assert [(row.id, row.payload, row.captions) for row in samples(source).values()] == [
        ("x/a", b"1", ("one",)),
        ("x/b", b"2", ("two",)),
    ]


@pytest.mark.parametrize(
    ("tar", "split"), [("train-0.tar", "train"), ("val_00.tar", "validation"), ("test.tar", "test"), ("x.tar", "train")]
)
def test_the_name_of_a_tar_may_tell_the_split(tmp_path: Path, tar: str, split: str) -> None:
    files = {**GOOD, "own.png": b"x", "own.json": b'{"caption": "x", "split": "mine"}'}
    found = samples(webdataset(tmp_path, files, tar))
    assert (found["good"].split, found["own"].split) == (split, "mine")


def test_patterns_stand_for_tars_in_order(tmp_path: Path) -> None:
    for name in ("a-08", "a-09", "a-10", "b-00"):
        webdataset(tmp_path, {f"{name}.png": b"x", f"{name}.txt": b"x"}, f"{name}.tar")
    for pattern, names in {
        "a-{10..08}.tar": [],
        "a-{08..10}.tar": ["a-08", "a-09", "a-10"],
        "{b-00,a-09}.tar": ["b-00", "a-09"],
        "a-*.tar": ["a-08", "a-09", "a-10"],
        "{b,a}-*.tar": ["b-00", "a-08", "a-09", "a-10"],
    }.items():
        config = SourceConfig(kind="webdataset", path=pattern)
        if not names:
            with pytest.raises(ValueError, match="no file matches"):
                open_source(config, tmp_path)
        else:
            assert list(open_source(config, tmp_path).ids()) == names
    for pattern, message in {
        "a-{08..11}.tar": r"a-11\.tar does not exist",
        "z*.tar": "no file matches",
        "*/a.tar": "has a '\\*' in a folder's name",
        "no/*.tar": "folder .*no does not exist",
        "{0..9999999}.tar": "stands for more than 1000000 files",
        "{0..9999}{0..9999}.tar": "stands for 100000000 files",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_source(SourceConfig(kind="webdataset", path=pattern), tmp_path)


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pyd", b"x"),
        ("a.PKL", b"x"),
        ("a.meta.pickle", b"x"),
        ("a.pth", b"x"),
        ("a.npy", npy(np.array([{}], dtype=object))),
        ("a.npy", b"\x93NUMPY"),
    ],
)
def test_a_pickled_member_spoils_its_sample(tmp_path: Path, name: str, content: bytes) -> None:
    files = {**GOOD, "a.png": b"x", "a.txt": b"x", name: content}
    found = outcome(webdataset(tmp_path, files, payload_field="png"))
    assert found["good"] is None
    assert (found["a"] or "").startswith("holds a pickled member: ")


def test_a_plain_array_does_not(tmp_path: Path) -> None:
    files = {"a.png": b"x", "a.txt": b"x", "a.npy": npy(np.zeros(3))}
    assert outcome(webdataset(tmp_path, files, payload_field="png")) == {"a": None}


@pytest.mark.parametrize(
    ("name", "row"),
    [("../a", "../a"), ("/etc/a", "/etc/a"), ("x/../../a", "x/../../a"), ("..", None), ("x/../a", "x/../a")],
)
def test_a_name_that_leaves_the_archive_is_a_bad_row(tmp_path: Path, name: str, row: str | None) -> None:
    found = outcome(webdataset(tmp_path, {**GOOD, f"{name}.png": b"x", f"{name}.txt": b"x"}))
    assert found.pop("good") is None
    assert found == ({row: f"name '{name}.png' leaves the archive"} if row else {})


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_a_tar_are_not_followed(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        add_members(archive, {**GOOD, "a.txt": b"x"})
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = kind, "/etc/passwd"
        archive.addfile(link)
    found = outcome(open_source(SourceConfig(kind="webdataset", path="t.tar"), tmp_path))
    problem = "is no file" if kind == tarfile.FIFOTYPE else "is a link, which is not followed"
    assert found == {"good": None, "a": f"member 'png' {problem}"}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names_in_every_format(tmp_path: Path, form: int) -> None:
    long = "x" * 90 + "/" + "y" * 60 if form == tarfile.USTAR_FORMAT else "é" * 90 + "/" + "y" * 120
    with tarfile.open(tmp_path / "t.tar", "w", format=form) as archive:
        add_members(archive, {f"{long}.png": b"x", f"{long}.txt": "é".encode()})
    assert outcome(open_source(SourceConfig(kind="webdataset", path="t.tar"), tmp_path)) == {long: None}


def test_the_cut_of_a_tar_is_told_at_every_byte(tmp_path: Path) -> None:
    files = {"a.png": png(1), "a.txt": b"one", "b.png": png(2), "b.txt": b"two"}
    webdataset(tmp_path, files)
    whole = (tmp_path / "t.tar").read_bytes()
    config = SourceConfig(kind="webdataset", path="t.tar")
    second = 512 + -(-len(files["a.png"]) // 512) * 512 + 1024
    for cut in range(513, len(whole), 101):
        (tmp_path / "t.tar").write_bytes(whole[:cut])
        found = outcome(open_source(config, tmp_path))
        assert (found.get("a") is None) == (cut >= second - 512 + 3), cut
        told = [reason for reason in found.values() if reason and "missing" in reason]
        # The end marker is two blocks of zeros, of which the first is enough.
        assert bool(told) == (cut < second + 2 * 512 + -(-len(files["b.png"]) // 512) * 512 + 1024), cut


def test_what_is_no_plain_tar_fails_at_opening(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        add_members(archive, GOOD)
    (tmp_path / "hidden.tar").write_bytes((tmp_path / "t.tar.gz").read_bytes())
    (tmp_path / "text.tar").write_bytes(b"no tar" * 1000)
    (tmp_path / "empty.tar").write_bytes(b"")
    for name, message in {
        "t.tar.gz": r"is compressed, .*: unpack it to a plain \.tar \(gunzip t\.tar\.gz\)",
        "hidden.tar": "is compressed",
        "text.tar": "is not a tar",
        "empty.tar": "is not a tar",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_source(SourceConfig(kind="webdataset", path=name), tmp_path)


def wav() -> bytes:
    stream = io.BytesIO()
    wave = np.sin(np.arange(800, dtype=np.float32) / 9).astype(np.float32)
    soundfile.write(stream, wave, 8000, format="WAV", subtype="FLOAT")
    return stream.getvalue()


def test_sound_comes_through_every_kind_of_file(tmp_path: Path) -> None:
    files = {"a.wav": wav(), "a.txt": b"a tone"}
    found = [samples(opened(tmp_path, files))["a"].payload for opened in (directory, webdataset)]
    saved = pa.table({"id": ["a"], "caption": ["a tone"], "audio": [{"bytes": wav(), "path": "a.wav"}]})
    save_split(tmp_path / "s", saved)
    config = SourceConfig(kind="hf_dataset", path="s", payload="bytes", payload_field="audio")
    found.append(samples(open_source(config, tmp_path))["a"].payload)
    expected = np.sin(np.arange(800, dtype=np.float32) / 9)
    for payload in found:
        signal = decode("audio", payload)
        assert signal.rate_hz == 8000
        assert signal.array is not None
        np.testing.assert_allclose(signal.array, expected, atol=1e-6)


def test_a_list_in_a_csv_cell_is_one_caption(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,smiles,caption\na,C,"[""one"", ""two""]"\n')
    config = SourceConfig(kind="csv", path="t.csv", payload="inline", payload_field="smiles")
    assert samples(open_source(config, tmp_path))["a"].captions == ('["one", "two"]',)

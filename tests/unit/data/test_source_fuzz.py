"""Malformed inputs of every kind: refused at opening, or bad rows; never a crash, never a sample that is none."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config.schema import SourceConfig
from pipeline.data.decoders import DecodeError, decode
from pipeline.data.sample import Sample
from pipeline.data.sources import open_source
from tests.source_kinds import WRITERS, add_members, png

FIELDS = ["id", "caption", "file", "split", "side"]
Edit = tuple[str, float, float, bytes]

# Half characters, names that leave a folder, blanks that are none to every function.
ODD_TEXT = st.one_of(
    st.text(max_size=12),
    st.text(st.sampled_from('ab./\\"\n\r\t\0\x85\u2028\ud800\udfff é{}*?'), max_size=12),
    st.sampled_from(
        ["", " ", "../x", "/etc/passwd", "..", ".", "files", "NaN", "None", "\ufeff", "a/../../b", "x" * 300]
    ),
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ODD_TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXT, inner, max_size=3),
    max_leaves=6,
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "delete", "zero"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=4,
)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="source-fuzz-") as name:
        yield Path(name)


def edited(content: bytes, edit: Edit) -> bytes:
    kind, _, where, piece = edit
    at = int(where * len(content))
    if kind == "flip" and content:
        return content[:at] + bytes([content[at] ^ (piece[0] or 1)]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + piece + content[at:]
    if kind == "delete":
        return content[:at] + content[at + len(piece) :]
    return content[:at] + bytes(min(64 * len(piece), len(content) - at)) + content[at + 64 * len(piece) :]


def damage(root: Path, edits: list[Edit]) -> None:
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    for edit in edits:
        file = files[int(edit[1] * len(files))]
        file.write_bytes(edited(file.read_bytes(), edit))


def exercise(config: SourceConfig, root: Path) -> list[Sample] | None:
    """Read all there is, as a run does; None where opening says that it cannot be read."""
    try:
        source = open_source(config, root)
    except (ValueError, OSError) as error:
        assert str(error)
        return None
    rows = list(source.read(0, len(source)))
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - how Ray ships a source to its workers
    assert copy.fingerprint() == source.fingerprint()
    assert list(copy.read(0, len(rows))) == rows or any(row != row for row in rows)
    ids = list(source.ids())
    assert len(ids) == len(rows) and all(ids)
    # Where another column of a row is damaged, its id may be out of reach too.
    assert all(row.id == name for row, name in zip(rows, ids, strict=True) if isinstance(row, Sample))
    good = [row for row in rows if isinstance(row, Sample)]
    for row in rows:
        assert row.id
        assert "\n" not in row.source.removeprefix(str(root)) or config.kind in ("directory", "webdataset")
        (row.id + row.source + getattr(row, "reason", "")).encode("utf-8")
    for row in good:
        assert row.captions and all(caption.strip() == caption and caption for caption in row.captions)
        assert row.split
        assert row.payload or config.kind == "embeddings"
        "".join([*row.captions, row.split, *row.attributes, *row.attributes.values()]).encode("utf-8")
        if isinstance(row.payload, str):
            row.payload.encode("utf-8")
    return good


CLEAN: dict[str, Path] = {}


def clean(kind: str) -> Path:
    """A valid source, made once."""
    if kind not in CLEAN:
        CLEAN[kind] = Path(tempfile.mkdtemp(prefix="source-clean-"))
        WRITERS[kind](CLEAN[kind])
    return CLEAN[kind]


@pytest.fixture(scope="module", autouse=True)
def _remove_clean_sources() -> Iterator[None]:
    yield
    for path in CLEAN.values():
        shutil.rmtree(path)
    CLEAN.clear()


@pytest.mark.parametrize("kind", list(WRITERS))
def test_damaged_files(kind: str) -> None:
    with folder() as config_folder:
        config = WRITERS[kind](config_folder)
    outcomes: set[str] = set()

    @settings(max_examples=120)
    @given(edits=EDITS)
    def run(edits: list[Edit]) -> None:
        with folder() as root:
            shutil.copytree(clean(kind), root, dirs_exist_ok=True)
            damage(root, edits)
            good = exercise(config, root)
            outcomes.add("refused" if good is None else f"{len(good)} good")
            for row in good or ():
                try:
                    decode("vector" if kind == "embeddings" else "image", row.payload)
                except DecodeError as error:
                    assert "\n" not in error.reason

    run()
    assert len(outcomes) > 1, "no edit had an effect"


@settings(max_examples=100)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["id", "caption", "file", "split", "side"]), JSON_VALUES), max_size=5)
)
@example(rows=[{"id": "\ud800", "caption": "x", "file": "a.png", "side": ""}])
@example(rows=[{"file": "\ud800"}])
def test_random_json_cells(rows: list[dict[str, Any]]) -> None:
    with folder() as root:
        (root / "a.png").write_bytes(png(0))
        head = {"id": "head", "caption": "x", "file": "a.png", "side": "left", "split": "train"}
        (root / "t").write_text("".join(json.dumps(row) + "\n" for row in [head, *rows]), encoding="utf-8")
        for payload in ("path", "inline"):
            good = exercise(SourceConfig(kind="jsonl", path="t", payload=payload, attribute_fields=("side",)), root)
            assert good and good[0].id == "head"


@settings(max_examples=100)
@given(rows=st.lists(st.lists(ODD_TEXT, min_size=1, max_size=5), max_size=5), raw=st.binary(max_size=60))
def test_random_csv_cells(rows: list[list[str]], raw: bytes) -> None:
    with folder() as root:
        (root / "a.png").write_bytes(png(0))
        stream = io.StringIO(newline="")
        csv.writer(stream).writerows([["id", "file", "caption"], ["head", "a.png", "x"], *rows])
        text = stream.getvalue().encode("utf-8", "surrogatepass")
        (root / "t.csv").write_bytes(text + raw)
        good = exercise(SourceConfig(kind="csv", path="t.csv"), root)
        assert good and good[0].id == "head"


CELL_TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), st.text(max_size=5)),
    "raw text": (pa.binary(), st.binary(max_size=5)),
    "bytes": (pa.binary(), st.binary(max_size=5)),
    "media": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), st.just({"bytes": b"x", "path": None})),
    "number": (pa.float64(), st.floats()),
    "time": (pa.timestamp("s"), st.integers(-(2**62), 2**62)),
    "zoned": (pa.timestamp("us", tz="No/Where"), st.integers(0, 2**40)),
    "texts": (pa.list_(pa.string()), st.lists(st.text(max_size=3), max_size=3)),
    "map": (pa.map_(pa.string(), pa.int8()), st.just([("a", 1)])),
    "numbers": (pa.list_(pa.float16()), st.lists(st.just(1.5), max_size=4)),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "b", ""])),
}


def column(data: st.DataObject, rows: int) -> pa.Array:
    name = data.draw(st.sampled_from(list(CELL_TYPES)))
    kind, cells = CELL_TYPES[name]
    array = pa.array(data.draw(st.lists(st.none() | cells, min_size=rows, max_size=rows)), type=kind)
    # Bytes under the name of text: no reader checks that they are UTF-8.
    return pa.StringArray.from_buffers(rows, *array.buffers()[1:], array.buffers()[0]) if name == "raw text" else array


@settings(max_examples=150)
@given(data=st.data(), rows=st.integers(1, 4), payload=st.sampled_from(["path", "bytes", "inline"]))
def test_random_columns(data: st.DataObject, rows: int, payload: Any) -> None:
    table = pa.table({name: column(data, rows) for name in ("id", "caption", "file", "split", "side")})
    with folder() as root:
        for suffix in ("parquet", "arrow"):
            try:
                if suffix == "parquet":
                    pq.write_table(table, root / "t.parquet")
                else:
                    (root / "saved").mkdir()
                    with pa.ipc.new_stream(root / "saved" / "data.arrow", table.schema) as stream:
                        stream.write_table(table)
            except (pa.ArrowException, UnicodeError):
                continue  # not a table that a writer of this format would write
        state = {"_data_files": [{"filename": "data.arrow"}]}
        if (root / "saved").is_dir():
            (root / "saved" / "state.json").write_text(json.dumps(state))
            exercise(SourceConfig(kind="hf_dataset", path="saved", payload=payload, attribute_fields=("side",)), root)
        if (root / "t.parquet").is_file():
            exercise(SourceConfig(kind="parquet", path="t.parquet", payload=payload, attribute_fields=("side",)), root)
            exercise(SourceConfig(kind="embeddings", path="t.parquet"), root)


NAMES = st.one_of(
    ODD_TEXT, st.builds("{}.{}".format, ODD_TEXT, st.sampled_from(["png", "txt", "json", "PKL", "npy", ""]))
)
FILES = st.dictionaries(NAMES, st.binary(max_size=20), max_size=6)


def in_tar(name: str) -> str:
    """As `tarfile` can write it: bytes that are no UTF-8 are half characters of one kind only."""
    return name.replace("\0", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


@settings(max_examples=100)
@given(files=FILES, form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), links=st.lists(NAMES, max_size=2))
def test_random_names_in_a_tar(files: dict[str, bytes], form: int, links: list[str]) -> None:
    with folder() as root:
        with tarfile.open(root / "t.tar", "w", format=form) as archive:
            add_members(archive, {in_tar(name): content for name, content in files.items()})
            for name in links:
                link = tarfile.TarInfo(in_tar(name))
                link.type, link.linkname = tarfile.SYMTYPE, "../../etc/passwd"
                archive.addfile(link)
        for row in exercise(SourceConfig(kind="webdataset", path="t.tar"), root) or ():
            assert ".." not in row.id.split("/") and not row.id.startswith("/")
            assert row.payload in files.values()


@settings(max_examples=100)
@given(files=FILES)
def test_random_names_in_a_folder(files: dict[str, bytes]) -> None:
    with folder() as root:
        (root / "d").mkdir()
        for name, content in files.items():
            plain = name.replace("/", "_").replace("\0", "")[:80].encode("utf-8", "surrogatepass")
            if plain not in (b"", b".", b".."):
                with open(bytes(root / "d") + b"/" + plain, "wb") as stream:  # noqa: PTH123 - a name that is no text
                    stream.write(content)
        for row in exercise(SourceConfig(kind="directory", path="d"), root) or ():
            assert row.payload in files.values()


@settings(max_examples=60)
@given(state=JSON_VALUES, splits=JSON_VALUES, name=ODD_TEXT)
def test_random_descriptions_of_a_saved_dataset(state: Any, splits: Any, name: str) -> None:
    table = pa.table({"id": ["a"], "caption": ["x"], "text": ["y"]})
    with folder() as root:
        (root / "s").mkdir()
        with pa.ipc.new_stream(root / "s" / "data.arrow", table.schema) as stream:
            stream.write_table(table)
        config = SourceConfig(kind="hf_dataset", path="s", payload="inline", payload_field="text")
        for content in (state, {"_data_files": state}, {"_data_files": [{"filename": name}]}):
            (root / "s" / "state.json").write_text(json.dumps(content))
            exercise(config, root)
        for content in (splits, {"splits": splits}, {"splits": [name]}):
            (root / "s" / "dataset_dict.json").write_text(json.dumps(content))
            exercise(config, root)

"""The reader that docs/shards.md shows reads what is written, and finds damage, without this project."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.shards import EmbeddingDataset
from pipeline.shards.manifest import MANIFEST_FILE
from tests.tiny_project import note_rows
from tests.unit.shards.conftest import extract_rows

ReadDataset = Callable[[Path], pa.Table]


@pytest.fixture
def read_dataset(root: Path) -> ReadDataset:
    (code,) = re.findall(r"^```python\n(.*?)^```$", (root / "docs" / "shards.md").read_text(), flags=re.M | re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    found: ReadDataset = names["read_dataset"]
    return found


@pytest.fixture
def directory(tmp_path: Path, hash_encoders: None) -> Path:
    rows = note_rows(20)
    rows[2]["caption"] = "ünïcode"
    for row in range(8, 16):
        rows[row]["caption"] = " "  # a shard without rows
    extract_rows(tmp_path, rows)
    return tmp_path / "out" / "notes" / "text-b"


def test_it_reads_every_row(read_dataset: ReadDataset, directory: Path) -> None:
    table = read_dataset(directory)
    assert table.equals(EmbeddingDataset(directory).take(range(12)))
    assert table["caption"][2].as_py() == ["ünïcode"]


@pytest.mark.parametrize("name", [MANIFEST_FILE, "shard-00000-*.arrow"])
def test_it_finds_damage(read_dataset: ReadDataset, directory: Path, name: str) -> None:
    (file,) = directory.glob(name)
    content = file.read_bytes()
    changed = (
        content.replace(b"small", b"SMALL", 1) if name != MANIFEST_FILE else content.replace(b"float16", b"float32")
    )
    assert changed != content
    file.write_bytes(changed)
    with pytest.raises(ValueError, match="is damaged"):
        read_dataset(directory)

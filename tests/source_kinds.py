"""The same samples as every kind of source keeps them.

In: an empty folder.  Out: a `SourceConfig` for each kind, whose rows are `pictures()`.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.config.schema import SourceConfig


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One sample."""

    id: str
    png: bytes
    caption: str
    side: str
    split: str

    @property
    def fields(self) -> dict[str, str]:
        return {"caption": self.caption, "side": self.side, "split": self.split}


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(16, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def pictures(count: int = 7) -> list[Picture]:
    """In the order of their ids, which name the split as a folder does."""
    splits = ("test", "train", "train", "validation")
    made = [
        Picture(
            id=f"{splits[index % 4]}/{index:03d}",
            png=png(index),
            caption=f"a circle, number {index}",
            side=("left", "right")[index % 2],
            split=splits[index % 4],
        )
        for index in range(count)
    ]
    return sorted(made, key=lambda picture: picture.id)


def _table(kind: Any, path: str, **changes: Any) -> SourceConfig:
    return SourceConfig(kind=kind, path=path, attribute_fields=("side",), **changes)


def write_parquet(folder: Path) -> SourceConfig:
    rows = [{"id": one.id, "image": one.png, **one.fields} for one in pictures()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet", row_group_size=3)
    return _table("parquet", "t.parquet", payload="bytes", payload_field="image")


def _with_files(folder: Path) -> list[dict[str, str]]:
    rows = []
    for one in pictures():
        file = folder / "files" / f"{one.id}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(one.png)
        rows.append({"id": one.id, "file": f"files/{one.id}.png", **one.fields})
    return rows


def write_jsonl(folder: Path) -> SourceConfig:
    rows = _with_files(folder)
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return _table("jsonl", "t.jsonl")


def write_csv(folder: Path) -> SourceConfig:
    rows = _with_files(folder)
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return _table("csv", "t.csv")


def write_directory(folder: Path) -> SourceConfig:
    for one in pictures():
        file = folder / "d" / f"{one.id}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(one.png)
        file.with_suffix(".json").write_text(json.dumps(one.fields), encoding="utf-8")
    return _table("directory", "d")


def add_members(archive: tarfile.TarFile, members: Mapping[str, bytes]) -> None:
    for name, content in members.items():
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def write_webdataset(folder: Path) -> SourceConfig:
    (folder / "tars").mkdir()
    made = pictures()
    for number, part in enumerate((made[:4], made[4:])):
        with tarfile.open(folder / "tars" / f"{number:03d}.tar", "w") as archive:
            for one in part:
                add_members(archive, {f"{one.id}.png": one.png, f"{one.id}.json": json.dumps(one.fields).encode()})
    return _table("webdataset", "tars/{000..001}.tar", payload_field="png,jpg")


def save_split(folder: Path, table: pa.Table, *, files: int = 1) -> None:
    """A split as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{index:05d}-of-{files:05d}.arrow" for index in range(files)]
    size = -(-table.num_rows // files)
    for index, name in enumerate(names):
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table.slice(index * size, size), max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")


def hugging_face_table(rows: Sequence[Picture]) -> pa.Table:
    """Images as `datasets` stores them; the split is no column."""
    return pa.Table.from_pylist(
        [
            {"id": one.id, "image": {"bytes": one.png, "path": None}, "caption": one.caption, "side": one.side}
            for one in rows
        ]
    )


def write_hf_dataset(folder: Path) -> SourceConfig:
    made = pictures()
    splits = sorted({one.split for one in made})
    for split in splits:
        table = hugging_face_table([one for one in made if one.split == split])
        save_split(folder / "saved" / split, table, files=2 if table.num_rows > 1 else 1)
    (folder / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": splits}), encoding="utf-8")
    return _table("hf_dataset", "saved", payload="bytes", payload_field="image")


def vector_of(one: Picture) -> list[float]:
    """Four numbers that float32 holds exactly."""
    return [float(value) for value in np.frombuffer(one.png[-4:], dtype=np.uint8).astype(np.float32) / 4 + 1]


def write_embeddings(folder: Path) -> SourceConfig:
    rows = [{"id": one.id, "vector": vector_of(one), **one.fields} for one in pictures()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "e.parquet", row_group_size=3)
    return _table("embeddings", "e.parquet", payload_field="vector")


WRITERS: dict[str, Callable[[Path], SourceConfig]] = {
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "directory": write_directory,
    "webdataset": write_webdataset,
    "hf_dataset": write_hf_dataset,
    "embeddings": write_embeddings,
}

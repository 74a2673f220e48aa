"""Extraction from every kind of source: the same samples make the same embeddings, and no bad vector gets through."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.load import load_config
from pipeline.config.schema import DatasetConfig, EncoderConfig, ExperimentConfig, ExtractConfig, SourceConfig
from pipeline.shards import EmbeddingDataset
from pipeline.shards.extraction import extract_locally
from tests.source_kinds import WRITERS, pictures, write_embeddings
from tests.tiny_encoders import bert, vit

MODELS = ("image-a", "text-a")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny image model and a tiny text model."""
    folder = tmp_path_factory.mktemp("models")
    vit(folder / "image-a", resize=True)
    bert(folder / "text-a")
    return folder


def precomputed(width: int) -> EncoderConfig:
    return EncoderConfig(name="ready", path="precomputed", width=width)


def extract(root: Path, source: SourceConfig, encoder: EncoderConfig, models: Path) -> EmbeddingDataset:
    """Extract one dataset; every row may be bad."""
    config: ExperimentConfig = replace(
        load_config(preset="smoke"),
        miniature=None,
        datasets=(
            DatasetConfig(
                name="d",
                kind="vector" if source.kind == "embeddings" else "image",
                role="train",
                source=source,
                encoders=(encoder,),
            ),
        ),
        text_encoder=EncoderConfig(name="text-a", path=str(models / "text-a")),
        extract=ExtractConfig(rows_per_shard=3, max_rejected_fraction=1.0, storage_dtype="float32"),
    )
    extract_locally(config, root, root / "out", on_progress=lambda *_: None)
    return EmbeddingDataset(root / "out" / "d" / encoder.name)


def test_every_kind_of_source_gives_the_same_embeddings(tmp_path: Path, models: Path) -> None:
    image = EncoderConfig(name="image-a", path=str(models / "image-a"))
    rows = range(len(pictures()))
    found: dict[str, Any] = {}
    for kind, write in WRITERS.items():
        root = tmp_path / kind
        root.mkdir()
        source = write(root)
        if kind == "embeddings":
            table = pq.read_table(root / source.path)
            ready = pa.array(found["csv"][0].tolist(), type=pa.list_(pa.float32()))
            place = table.schema.get_field_index("vector")
            pq.write_table(table.set_column(place, "vector", ready), root / source.path)
        dataset = extract(root, source, precomputed(16) if kind == "embeddings" else image, models)
        assert dataset.manifest.rejected.rows == 0
        found[kind] = (
            dataset.embeddings(rows, normalize=False).numpy(),
            dataset.text_embeddings(rows).numpy(),
            dataset.ids(rows),
            dataset.captions(rows),
            dataset.attributes(rows),
            dataset.manifest.splits,
        )
    for kind, values in found.items():
        for mine, first in zip(values, found["csv"], strict=True):
            assert np.array_equal(mine, first) if isinstance(first, np.ndarray) else mine == first, kind
    assert found["csv"][0].shape == (7, 16)


VECTOR_FAULTS: list[tuple[Any, str]] = [
    ([1.0, 2.0, 3.0], "embedding refused by the encoder: 3 numbers, the encoder's width is 4"),
    ([1.0, 2.0, 3.0, 4.0, 5.0], "embedding refused by the encoder: 5 numbers, the encoder's width is 4"),
    ([], "vector is empty"),
    ([1.0, float("nan"), 3.0, 4.0], "vector holds values that are not finite"),
    ([1.0, float("inf"), 3.0, 4.0], "vector holds values that are not finite"),
    ([1.0, 1e300, 3.0, 4.0], "vector holds values that are not finite"),
    ([1, 10**400, 3, 4], "vector holds values that are not finite"),
    ([0.0, 0, 0, 0], "embedding is zero"),
    ([1.0, None, 3.0, 4.0], "vector holds something that is no number: None"),
    ([1.0, "2", 3.0, 4.0], "vector holds something that is no number: '2'"),
    ([1.0, True, 3.0, 4.0], "vector holds something that is no number: True"),
    ([[1.0], [2.0], [3.0], [4.0]], "vector holds something that is no number: [1.0]"),
    ("[1, 2, 3, 4]", "field 'v' holds no list of numbers"),
    (None, "field 'v' holds no list of numbers"),
    ({"0": 1.0}, "field 'v' holds no list of numbers"),
]


def write_vectors(root: Path, vectors: Sequence[Any]) -> SourceConfig:
    rows = [{"id": f"r{index}", "v": vector, "text": "a red circle"} for index, vector in enumerate(vectors)]
    (root / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(kind="embeddings", path="v.jsonl", payload_field="v", caption_field="text")


def test_every_fault_of_a_vector_is_a_rejected_row(tmp_path: Path, models: Path) -> None:
    good = [0.5, -1, 2.5, 3]
    faults = [fault for fault, _ in VECTOR_FAULTS]
    dataset = extract(tmp_path, write_vectors(tmp_path, [good, *faults, good]), precomputed(4), models)
    assert dataset.embeddings([0, 1], normalize=False).tolist() == [good, good]
    rejected = pq.read_table(tmp_path / "out" / "d" / "ready" / "rejected.parquet").to_pylist()
    assert [row["detail"] for row in rejected] == [reason for _, reason in VECTOR_FAULTS]


NUMBERS = st.one_of(
    st.floats(width=32), st.floats(), st.integers(), st.none(), st.booleans(), st.text(max_size=2), st.just([1.0])
)
CELLS = st.one_of(
    st.lists(st.floats(-9, 9, width=16), min_size=4, max_size=4), st.lists(NUMBERS, max_size=6), NUMBERS,
)  # fmt: skip


@settings(max_examples=30)
@given(vectors=st.lists(CELLS, min_size=1, max_size=8))
def test_no_bad_vector_reaches_a_shard(models: Path, vectors: list[Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="vectors-") as name:
        root = Path(name)
        dataset = extract(root, write_vectors(root, vectors), precomputed(4), models)
        check(dataset, 4, len(vectors))


@settings(max_examples=12)
@given(where=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6))
@pytest.mark.parametrize("kind", ["webdataset", "parquet", "embeddings"])
def test_no_damaged_file_reaches_a_shard(models: Path, kind: str, where: list[tuple[float, int]]) -> None:
    with tempfile.TemporaryDirectory(prefix="damaged-") as name:
        root = Path(name)
        source = WRITERS[kind](root)
        file = next(file for file in sorted(root.rglob("*")) if file.suffix in (".tar", ".parquet"))
        content = bytearray(file.read_bytes())
        for place, mask in where:
            content[int(place * len(content))] ^= mask
        file.write_bytes(content)
        image = EncoderConfig(name="ready", path=str(models / "image-a"))
        width = 4 if kind == "embeddings" else 16
        try:
            dataset = extract(root, source, precomputed(4) if kind == "embeddings" else image, models)
        except ValueError as error:
            assert "\n" not in str(error)
            return
        check(dataset, width, None)


def check(dataset: EmbeddingDataset, width: int, rows: int | None) -> None:
    every = range(len(dataset))
    vectors = dataset.embeddings(every, normalize=False).numpy()
    assert vectors.shape == (len(dataset), width)
    assert np.isfinite(vectors).all() and vectors.any(axis=1).all()
    assert np.isfinite(dataset.text_embeddings(every).numpy()).all()
    assert all(dataset.ids(every)) and all(all(captions) and captions for captions in dataset.captions(every))
    assert rows is None or len(dataset) + dataset.manifest.rejected.rows == rows


def test_vectors_and_models_do_not_mix(tmp_path: Path, models: Path) -> None:
    ready = write_embeddings(tmp_path)
    image = EncoderConfig(name="image-a", path=str(models / "image-a"))
    for source, encoder in ((ready, image), (WRITERS["csv"](tmp_path), precomputed(4))):
        with pytest.raises(ValueError, match=r"vectors go with 'precomputed', all other signals with a model"):
            extract(tmp_path, source, encoder, models)
    for change, message in (
        ({"width": None}, "needs width"),
        ({"pooling": "mean"}, "takes vectors as they are: remove dtype, pooling"),
        ({"dtype": "float16"}, "takes vectors as they are"),
    ):
        with pytest.raises(ValueError, match=message):
            extract(tmp_path, ready, replace(precomputed(4), **change), models)
    for kind, source in (("image", ready), ("vector", WRITERS["parquet"](tmp_path))):
        with pytest.raises(ValueError, match=r"'vector' and 'embeddings' need each other"):
            DatasetConfig(name="d", kind=kind, role="train", source=source, encoders=(image,))  # type: ignore[arg-type]

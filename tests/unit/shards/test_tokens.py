"""Datasets of tokens: what is written is what is read, and none is taken for a dataset of vectors."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.verify_shards import verify
from pipeline.config.schema import ExperimentConfig, TokensConfig
from pipeline.encoders.registry import load_token_encoder
from pipeline.runtime.cells import places
from pipeline.shards import ConcatDataset, EmbeddingDataset, load_manifest, verify_dataset
from pipeline.shards.build import encode_shard, encode_texts
from pipeline.shards.extraction import extract_locally
from pipeline.shards.format import StorageDtype, TokenRows, shard_table
from pipeline.shards.plan import plan_datasets
from pipeline.signal import Signal
from pipeline.training.sources import open_splits
from tests.tiny_project import note_rows, save_models, tiny_config
from tests.unit.shards.conftest import HashEncoder, contents, write_dataset
from tests.unit.shards.test_build import decode_all, sample

LIMIT = TokensConfig(count=3, reduce="merge")


class HashTokens:
    """As many tokens as the text has words, each drawn from its word."""

    def __init__(self, width: int) -> None:
        self.name, self.width, self.fingerprint = "tokens", width, "hash-tokens"
        self._words = HashEncoder("words", width)

    def encode_tokens(self, signals: Sequence[Signal]) -> list[npt.NDArray[np.float32]]:
        if any("refuse" in (signal.text or "") for signal in signals):
            raise ValueError("too long")
        return [self._tokens((signal.text or "").split()) for signal in signals]

    def _tokens(self, words: list[str]) -> npt.NDArray[np.float32]:
        if words[0] == "none":
            return np.empty((0, self.width), dtype=np.float32)
        return self._words.encode([Signal(kind="text", text=word) for word in words])


def quiet(*_: object) -> None:
    pass


def token_config(root: Path, *, dtype: StorageDtype = "float32") -> ExperimentConfig:
    """Notes through one encoder as vectors and through the same one as tokens; tiles as tokens."""
    config = tiny_config(root, notes=note_rows(20), tiles=6)
    notes, tiles = config.datasets
    vectors = notes.encoders[0]
    return replace(
        config,
        datasets=(
            replace(notes, encoders=(vectors, replace(vectors, name="text-tokens", tokens=LIMIT))),
            replace(tiles, encoders=(replace(tiles.encoders[0], tokens=TokensConfig(count=8)),)),
        ),
        extract=replace(config.extract, storage_dtype=dtype),
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokens")
    save_models(root)
    return root


@pytest.fixture(scope="module")
def config(project: Path) -> ExperimentConfig:
    return token_config(project)


@pytest.fixture(scope="module")
def extracted(project: Path, config: ExperimentConfig) -> Path:
    extract_locally(config, project, project / "out", on_progress=quiet)
    return project


@pytest.fixture(scope="module")
def dataset(extracted: Path) -> EmbeddingDataset:
    return EmbeddingDataset(extracted / "out" / "notes" / "text-tokens")


def by_arrow(dataset: EmbeddingDataset) -> list[npt.NDArray[np.float32]]:
    """Tokens of every row, read by nothing of ours."""
    return [np.array(row, dtype=np.float32) for table in dataset.tables() for row in table["embedding"].to_pylist()]


def test_what_the_encoder_gives_is_what_the_reader_serves(
    extracted: Path, config: ExperimentConfig, dataset: EmbeddingDataset
) -> None:
    encoder = load_token_encoder(config.datasets[0].encoders[1], "text", extracted)
    expected = encoder.encode_tokens([Signal(kind="text", text=row["text"]) for row in note_rows(20)])
    served, mask = dataset.token_embeddings(range(20), normalize=False)
    assert {len(tokens) for tokens in expected} == {3}
    assert served.shape == (20, 3, 16) and bool(mask.all())
    np.testing.assert_allclose(served.numpy(), np.stack(expected), atol=1e-5)
    tiles = EmbeddingDataset(extracted / "out" / "tiles" / "image-a")
    assert tiles.token_embeddings([0, 5])[0].shape == (2, 5, 12)  # four patches and the CLS token


def test_manifest_files_and_reruns(extracted: Path, config: ExperimentConfig, dataset: EmbeddingDataset) -> None:
    assert (dataset.form, dataset.manifest.encoder.tokens, dataset.width) == ("tokens", LIMIT, 16)
    vectors = json.loads((extracted / "out" / "notes" / "text-a" / "manifest.json").read_text())
    assert "tokens" not in vectors["encoder"] and "tokens" not in vectors["text_encoder"]
    assert verify([extracted / "out"]) == 0
    before = contents(extracted / "out")
    written = {path: path.stat().st_mtime_ns for path in (extracted / "out").rglob("shard-*")}
    extract_locally(config, extracted, extracted / "out", on_progress=quiet)
    assert contents(extracted / "out") == before
    assert {path: path.stat().st_mtime_ns for path in (extracted / "out").rglob("shard-*")} == written


def test_damage_is_found(extracted: Path, tmp_path: Path) -> None:
    for name, content in contents(extracted / "out" / "notes" / "text-tokens").items():
        (tmp_path / name).write_bytes(content)
    shard = sorted(tmp_path.glob("shard-*"))[1]
    whole = shard.read_bytes()
    middle = len(whole) // 2
    shard.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert [problem.file for problem in verify_dataset(tmp_path)] == [shard.name]
    with pytest.raises(ValueError, match="no row of it is served"):
        EmbeddingDataset(tmp_path).token_embeddings([9])


WORDS = st.lists(st.integers(1, 5), max_size=6)


@given(st.lists(WORDS, min_size=1, max_size=3), st.sampled_from(["float16", "float32"]), st.data())
def test_rows_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]], dtype: StorageDtype, data: st.DataObject
) -> None:
    rng = np.random.default_rng(sum(map(sum, shards)))
    tokens = [rng.normal(size=(count, 7)).astype(dtype) for shard in shards for count in shard]
    folder = tmp_path_factory.mktemp("d")
    rows = [[{"captions": ["a"], "split": "train", "attributes": {}} for _ in shard] for shard in shards]
    write_dataset(folder, rows, dtype, 0, tokens=tokens)
    assert verify_dataset(folder) == []
    read = EmbeddingDataset(folder)
    chosen = data.draw(st.lists(st.integers(0, len(tokens) - 1), max_size=9)) if tokens else []
    served, mask = read.token_embeddings(np.array(chosen, dtype=np.int64), normalize=False)
    longest = max((len(tokens[row]) for row in chosen), default=0)
    assert served.dtype == torch.float32 and mask.dtype == torch.bool
    assert served.shape == (len(chosen), longest, 7) and mask.shape == (len(chosen), longest)
    for row, row_tokens, row_mask in zip(chosen, served, mask, strict=True):
        assert row_mask.tolist() == [place < len(tokens[row]) for place in range(longest)]
        assert np.array_equal(row_tokens[row_mask].numpy(), tokens[row].astype(np.float32))
        assert not row_tokens[~row_mask].any()
    lengths = read.token_embeddings(chosen)[0].norm(dim=2)
    torch.testing.assert_close(lengths, mask.float())
    assert read.text_embeddings(chosen).shape == (len(chosen), 3)


def test_plain_types_read_without_a_copy(dataset: EmbeddingDataset) -> None:
    column = dataset.table(0)["embedding"]
    assert str(column.type) == "list<item: fixed_size_list<item: float>[16]>"
    before = pa.total_allocated_bytes()
    views = dataset._token_views(np.arange(8))
    assert pa.total_allocated_bytes() == before
    start = column.chunk(0).values.flatten().buffers()[1].address
    assert [view.ctypes.data - start for view in views] == [row * 3 * 16 * 4 for row in range(8)]


def test_what_is_served_is_the_callers_own(dataset: EmbeddingDataset) -> None:
    before = dataset.token_embeddings([1, 2])[0]
    dataset.token_embeddings([1, 2])[0].zero_()
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert torch.equal(copy.token_embeddings([1, 2])[0], before)


def test_a_row_as_a_table(dataset: EmbeddingDataset) -> None:
    (found,) = dataset.take([7], ["embedding"])["embedding"].to_pylist()
    assert np.array_equal(np.array(found, dtype=np.float32), by_arrow(dataset)[7])


def test_every_kind_of_bad_row_is_kept_out_with_its_reason() -> None:
    items = [
        *map(
            sample, ["good words", "a nan", "an infinity", "zero zero", "zero one", "huge", "refuse it", "none", "last"]
        )
    ]
    decoded = decode_all(items)
    texts = encode_texts(decoded, HashEncoder("text", 4), "float16")
    table, rejected = encode_shard(decoded, HashTokens(6), texts, "float16")
    assert table["source_row"].to_pylist() == [0, 4, 8]
    assert [len(row) for row in table["embedding"].to_pylist()] == [2, 2, 1]
    assert [(row.source_row, row.reason) for row in rejected] == [
        (1, "embedding holds NaN"),
        (2, "embedding is infinite"),
        (3, "embedding is zero"),
        (5, "embedding is too large for float16"),
        (6, "embedding refused by the encoder"),
        (7, "embedding has no tokens"),
    ]


def test_a_shard_without_a_good_row_knows_its_type() -> None:
    decoded = decode_all([sample("refuse")])
    texts = encode_texts(decoded, HashEncoder("text", 4), "float16")
    table, rejected = encode_shard(decoded, HashTokens(6), texts, "float16")
    assert (table.num_rows, len(rejected)) == (0, 1)
    assert str(table.schema.field("embedding").type) == "list<item: fixed_size_list<item: halffloat>[6]>"


def test_tokens_of_another_width_are_a_bug_and_not_a_bad_row() -> None:
    encoder = HashTokens(6)
    encoder._words = HashEncoder("words", 7)
    decoded = decode_all([sample("x y")])
    with pytest.raises(TypeError, match=r"'tokens' gave an array of shape \(2, 7\), expected \(2, 6\)"):
        encode_shard(decoded, encoder, encode_texts(decoded, HashEncoder("t", 4), "float16"), "float16")


def test_tokens_of_too_few_signals_are_a_bug_and_not_a_bad_row() -> None:
    class Forgetful(HashTokens):
        def encode_tokens(self, signals: Sequence[Signal]) -> list[npt.NDArray[np.float32]]:
            return super().encode_tokens(signals)[1:]

    decoded = decode_all([sample("x"), sample("y")])
    with pytest.raises(TypeError, match="'tokens' gave tokens of 1 signals, expected 2"):
        encode_shard(decoded, Forgetful(6), encode_texts(decoded, HashEncoder("t", 4), "float16"), "float16")


def test_neither_form_is_taken_for_the_other(extracted: Path, dataset: EmbeddingDataset) -> None:
    vectors = EmbeddingDataset(extracted / "out" / "notes" / "text-a")
    message = "text-tokens holds tokens, not one vector a row: read them by token_embeddings"
    with pytest.raises(ValueError, match=message):
        dataset.embeddings([0])
    with pytest.raises(ValueError, match=message):
        dataset.vectors(0)
    assert dataset.vectors(0, "text_embedding").shape == (8, 16)
    with pytest.raises(ValueError, match="text-a holds one vector a row, not tokens: read it by embeddings"):
        vectors.token_embeddings([0])
    with pytest.raises(ValueError, match=r"text-tokens cannot be joined to .*text-a: its form is tokens, not vectors"):
        ConcatDataset([vectors, dataset])


def test_datasets_of_tokens_are_joined(dataset: EmbeddingDataset) -> None:
    joined = ConcatDataset([dataset, dataset])
    assert torch.equal(joined.token_embeddings([3, 23])[0][1], dataset.token_embeddings([3])[0][0])
    with pytest.raises(ValueError, match="holds tokens, not one vector a row"):
        joined.embeddings([0])


def test_training_and_evaluation_refuse_tokens_at_set_up(
    extracted: Path, config: ExperimentConfig, tmp_path: Path
) -> None:
    (tmp_path / "embeddings").symlink_to(extracted / "out")
    config = replace(config, projector=replace(config.projector, input_width=16))
    message = r"dataset '{}', encoder '{}': it holds tokens, but training and evaluation take one vector a sample"
    with pytest.raises(ValueError, match=message.format("notes", "text-tokens")):
        open_splits(config, extracted, tmp_path, role="train", splits=["train"])
    with pytest.raises(ValueError, match=message.format("tiles", "image-a")):
        open_splits(config, extracted, tmp_path, role="held_out", splits=["train"])
    with pytest.raises(ValueError, match=message.format("tiles", "image-a")):
        places(config, extracted, tmp_path, "f")


def test_pooled_datasets_keep_the_keys_that_they_had_before_there_were_tokens(tmp_path: Path) -> None:
    for name in ("text-a", "text-b"):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "bert", "name": name}))
        (folder / "model.safetensors").write_bytes(name.encode() * 9)
    config = tiny_config(tmp_path, notes=note_rows(20))
    (plan,) = plan_datasets(config, tmp_path, tmp_path / "out")
    assert [(target.encoder.fingerprint, target.content_key) for target in plan.targets] == [
        ("cbee80c7560a3914", "21905180e9895105"),
        ("3f10c8ff63f44887", "d7518e39d802defa"),
    ]


def test_manifests_of_vectors_read_as_before(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[{"captions": ["a"], "split": "train", "attributes": {}}]], "float16", 0)
    assert "tokens" not in (tmp_path / "manifest.json").read_text()
    assert load_manifest(tmp_path).encoder.tokens is None


def test_offsets_that_arrow_cannot_hold_are_refused() -> None:
    empty = np.empty((0, 1), dtype=np.float32)
    with pytest.raises(pa.ArrowInvalid):
        shard_table(
            ids=["a"], captions=[["a"]], splits=["train"], attributes=[{}], source_rows=[0], dtype="float32",
            embeddings_NE=TokenRows(tokens_ME=empty, counts_N=np.array([2**31])), text_embeddings_NW=np.ones((1, 1)),
        )  # fmt: skip

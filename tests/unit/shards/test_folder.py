"""Remote folders: served through a cache whose files are checked, fetched again where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.shards import EmbeddingDataset
from pipeline.shards.manifest import MANIFEST_FILE
from tests.unit.shards.conftest import write_dataset

ROWS = [{"captions": [f"caption {row}"], "split": "train", "attributes": {}} for row in range(6)]
ALL = np.arange(6, dtype=np.int64)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    folder = tmp_path / "bucket" / "notes"
    folder.mkdir(parents=True)
    write_dataset(folder, [ROWS[:4], ROWS[4:]], "float16", seed=3)
    return folder


def _cached(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def test_a_remote_dataset_reads_as_the_local_one(remote: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    local, fetched = EmbeddingDataset(remote), EmbeddingDataset(remote.as_uri(), cache=cache)
    assert torch.equal(local.embeddings(ALL), fetched.embeddings(ALL))
    assert local.ids(ALL) == fetched.ids(ALL) == [f"id {row}" for row in range(6)]
    assert [file.suffix for file in _cached(cache)] == [".arrow", ".arrow"]


def test_the_cache_serves_without_the_remote_shards(remote: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    wanted = EmbeddingDataset(remote.as_uri(), cache=cache).embeddings(ALL)
    for shard in remote.glob("shard-*.arrow"):
        shard.unlink()
    assert torch.equal(EmbeddingDataset(remote.as_uri(), cache=cache).embeddings(ALL), wanted)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_cache_file_is_fetched_again(remote: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    wanted = EmbeddingDataset(remote.as_uri(), cache=cache).embeddings(ALL)
    victim = _cached(cache)[0]
    content = bytearray(victim.read_bytes())
    if damage == "delete":
        victim.unlink()
    else:
        content[len(content) // 2] ^= 1
        victim.write_bytes(content if damage == "flip" else content[:-9])
    assert torch.equal(EmbeddingDataset(remote.as_uri(), cache=cache).embeddings(ALL), wanted)


def test_a_damaged_remote_shard_is_never_served(remote: Path, tmp_path: Path) -> None:
    shard = sorted(remote.glob("shard-*.arrow"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 4
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged .* no row of it is served"):
        EmbeddingDataset(remote.as_uri(), cache=tmp_path / "cache").embeddings(ALL)
    assert all(not file.name.startswith(".") for file in _cached(tmp_path / "cache"))


def test_what_is_not_there_is_named(remote: Path, tmp_path: Path) -> None:
    (remote / MANIFEST_FILE).unlink()
    with pytest.raises(ValueError, match=r"holds no embedding dataset"):
        EmbeddingDataset(remote.as_uri(), cache=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"cannot be opened .* such as s3://bucket/folder"):
        EmbeddingDataset("nowhere://bucket/folder", cache=tmp_path / "cache")


def test_credentials_stay_out_of_messages(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        EmbeddingDataset("nowhere://key:secret@bucket/folder?token=hidden", cache=tmp_path / "cache")
    assert "secret" not in str(error.value) and "hidden" not in str(error.value)

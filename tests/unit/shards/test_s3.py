"""A dataset in a bucket, read through a real S3 API on localhost."""

from __future__ import annotations

from pathlib import Path

import boto3
import numpy as np
import pytest
import torch

from pipeline.shards import EmbeddingDataset
from pipeline.shards.folder import remote_datasets, uri_below
from pipeline.shards.manifest import MANIFEST_FILE
from tests.unit.shards.conftest import write_dataset

ALL = np.arange(6, dtype=np.int64)


def test_a_bucket_is_read_and_its_damage_is_refused(endpoint: str, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    rows = [{"captions": [f"caption {row}"], "split": "train", "attributes": {}} for row in range(6)]
    write_dataset(folder, [rows[:4], rows[4:]], "float16", seed=3)
    client = boto3.client("s3", endpoint_url=f"http://{endpoint}")
    client.create_bucket(Bucket="bucket")
    for file in folder.iterdir():
        client.upload_file(str(file), "bucket", f"notes/{file.name}")
    uri = f"s3://bucket/notes?scheme=http&endpoint_override={endpoint}"
    assert remote_datasets(uri) == [""]
    assert remote_datasets(uri.replace("/notes", "")) == ["notes"]
    assert uri_below(uri.replace("/notes", ""), "notes") == uri
    dataset = EmbeddingDataset(uri, cache=tmp_path / "cache")
    assert dataset.name == "s3://bucket/notes"
    assert torch.equal(dataset.embeddings(ALL), EmbeddingDataset(folder).embeddings(ALL))

    shard = sorted(folder.glob("shard-*.arrow"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 8
    client.put_object(Bucket="bucket", Key=f"notes/{shard.name}", Body=bytes(content))
    with pytest.raises(ValueError, match="is damaged"):
        EmbeddingDataset(uri, cache=tmp_path / "other").embeddings(ALL)
    client.put_object(Bucket="bucket", Key=f"notes/../../x/{MANIFEST_FILE}", Body=b"")
    with pytest.raises(ValueError, match=r"holds a dataset named '.*\.\./x', which leads elsewhere"):
        remote_datasets(uri.replace("/notes", ""))
    client.delete_object(Bucket="bucket", Key=f"notes/{MANIFEST_FILE}")
    with pytest.raises(ValueError, match="holds no embedding dataset"):
        EmbeddingDataset(uri, cache=tmp_path / "cache")

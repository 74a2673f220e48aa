"""Embedding shards on disk: schema, manifest, writer, reader, verification."""

from pipeline.shards.manifest import FileEntry, Manifest, load_manifest
from pipeline.shards.reader import ConcatDataset, EmbeddingDataset
from pipeline.shards.verify import Problem, find_datasets, verify_dataset

__all__ = [
    "ConcatDataset",
    "EmbeddingDataset",
    "FileEntry",
    "Manifest",
    "Problem",
    "find_datasets",
    "load_manifest",
    "verify_dataset",
]

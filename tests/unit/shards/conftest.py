"""Rows, an encoder that needs no library, and datasets written with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config.schema import EncoderConfig, ExperimentConfig, SignalKind, TokensConfig
from pipeline.encoders import huggingface
from pipeline.shards import FileEntry, Manifest, extraction, plan
from pipeline.shards.format import FORMAT_VERSION, ShardRecord, StorageDtype, TokenRows, shard_table
from pipeline.shards.manifest import REJECTED_FILE, EncoderRecord, save_manifest
from pipeline.shards.writer import Shard, write_shard
from pipeline.signal import Signal
from tests.s3_server import endpoint
from tests.tiny_project import tiny_config

__all__ = ["endpoint"]

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
WIDTHS = {"text-a": 6, "text-b": 9, "image-a": 5}


class HashEncoder:
    """A vector drawn from the hash of the signal's content; some words stand for what encoders do wrong."""

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width, self.fingerprint = name, width, f"hash-{name}"
        self.calls: list[int] = []

    def encode(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        self.calls.append(len(signals))
        for signal in signals:
            if signal.text is not None and "refuse" in signal.text:
                raise ValueError("too long: 99 tokens")
        return np.stack([self._vector(signal) for signal in signals])

    def _vector(self, signal: Signal) -> npt.NDArray[np.float32]:
        content = signal.text.encode() if signal.text is not None else np.asarray(signal.array).tobytes()
        seed = int.from_bytes(hashlib.sha256(self.name.encode() + content).digest()[:8], "big")
        vector = np.random.default_rng(seed).normal(size=self.width).astype(np.float32)
        for word, value in (("nan", np.nan), ("infinity", np.inf), ("zero", 0.0), ("huge", 1e6)):
            if word in (signal.text or ""):
                vector[:] = value
        return vector


@pytest.fixture
def hash_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extraction without models on disk."""
    use_hash_encoders(monkeypatch)


def use_hash_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every encoder is a `HashEncoder` for as long as the patch holds."""

    def load(config: EncoderConfig, kind: SignalKind, root: Path, device: str = "cpu") -> HashEncoder:
        return HashEncoder(config.name, WIDTHS[config.name])

    def identify(config: EncoderConfig, kind: SignalKind, root: Path) -> str:
        return f"hash-{config.name}-{kind}"

    monkeypatch.setattr(huggingface, "load_encoder", load)
    monkeypatch.setattr(plan, "encoder_fingerprint", identify)


def extract_rows(root: Path, rows: Sequence[dict[str, Any]], **options: Any) -> ExperimentConfig:
    """Extract `rows` below `root / "out"`; needs `hash_encoders`."""
    config = tiny_config(root, notes=rows, **options)
    extraction.extract_locally(config, root, root / "out", on_progress=lambda *_: None)
    return config


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def token_rows(tokens: Sequence[npt.NDArray[np.floating]], start: int, count: int) -> TokenRows:
    """The tokens of some rows that follow one another."""
    chosen = tokens[start : start + count]
    return TokenRows(
        tokens_ME=np.concatenate([np.empty((0, 7)), *chosen]),
        counts_N=np.array([len(found) for found in chosen], dtype=np.int64),
    )


def write_dataset(
    directory: Path,
    shards: list[list[dict[str, Any]]],
    dtype: StorageDtype,
    seed: int,
    *,
    width: int = 7,
    tokens: Sequence[npt.NDArray[np.floating]] | None = None,
) -> list[Shard]:
    """A dataset of drawn rows; embeddings are drawn from `seed`, or each row has the given tokens."""
    rng = np.random.default_rng(seed)
    written, row = [], 0
    for index, rows in enumerate(shards):
        table = shard_table(
            ids=[f"id {row + offset}" for offset in range(len(rows))],
            captions=[item["captions"] for item in rows],
            embeddings_NE=rng.normal(size=(len(rows), width)) if tokens is None else token_rows(tokens, row, len(rows)),
            text_embeddings_NW=rng.normal(size=(len(rows), 3)),
            splits=[item["split"] for item in rows],
            attributes=[item["attributes"] for item in rows],
            source_rows=range(row, row + len(rows)),
            dtype=dtype,
        )
        written.append(
            write_shard(directory, index, table, ShardRecord(content_key="k", start=row, stop=row + len(rows)))
        )
        row += len(rows)
    (directory / REJECTED_FILE).write_bytes(b"")
    splits: dict[str, int] = {}
    for shard in written:
        for split, count in shard.splits.items():
            splits[split] = splits.get(split, 0) + count
    text_encoder = EncoderRecord(name="e", id="e", revision=None, fingerprint="f", width=3)
    limit = None if tokens is None else TokensConfig(count=5)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        dataset="d",
        kind="text",
        content_key="k",
        source_fingerprint="s",
        encoder=replace(text_encoder, width=width, tokens=limit),
        text_encoder=text_encoder,
        dtype=dtype,
        rows=row,
        splits=splits,
        shards=tuple(shard.entry for shard in written),
        rejected=FileEntry(name=REJECTED_FILE, rows=0, bytes=0, sha256=EMPTY_SHA256),
        rejected_by_reason={},
    )
    save_manifest(directory, manifest)
    return written

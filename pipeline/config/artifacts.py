"""Folders of finished work: a stage's output counts only once its `stage.json` is there.

In: a folder and the fingerprint of everything that decided its content.
Out: whether that content is already complete, and a record of it that is written last and atomically.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import DatasetConfig, EncoderConfig, ExperimentConfig

STAGE_FILE = "stage.json"
STAGE_FORMAT = 1


def run_dir(config: ExperimentConfig, root: Path) -> Path:
    """Folder of all outputs of this run."""
    return root / config.runs_dir / config.name


def embeddings_dir(run_dir: Path, dataset: DatasetConfig, encoder: EncoderConfig) -> Path:
    """Where a dataset's shards lie in a run."""
    return run_dir / "embeddings" / dataset.name / encoder.name


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a crash, sees either the old file or the whole new one."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # noqa: PTH101 - mkstemp's 0600 would hide results from other users
        os.replace(temporary, path)  # noqa: PTH105 - the pair of the line above
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class StageDir:
    """One stage's output folder."""

    path: Path

    def is_complete(self, fingerprint: str) -> bool:
        """Whether the folder holds the finished output of exactly this work."""
        record = self._record()
        return record is not None and record.get("fingerprint") == fingerprint

    def begin(self) -> None:
        """Make the folder, check that it can be written, and forget an earlier completion.

        Other files stay: a stage may reuse what it can prove to be its own (finished shards, checkpoints).
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"\0" * 4096)
            (self.path / STAGE_FILE).unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(
                f"output directory {self.path} cannot be written ({error.strerror or error}): "
                f"choose another with --set runs_dir=PATH, or free it"
            ) from error

    def commit(self, fingerprint: str, info: Mapping[str, Any]) -> None:
        """Record that the output is complete; `info` is any JSON mapping. Call it last."""
        record = {"format": STAGE_FORMAT, "fingerprint": fingerprint, "info": dict(info)}
        write_text_atomic(self.path / STAGE_FILE, json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")

    def info(self) -> dict[str, Any]:
        """What `commit` was given; `ValueError` where the stage has not been completed."""
        record = self._record()
        if record is None:
            raise ValueError(f"{self.path} holds no finished stage ({STAGE_FILE} is missing): run that stage first")
        info = record["info"]
        if not isinstance(info, dict):
            raise ValueError(f"{self.path / STAGE_FILE}: `info` must be a mapping, got {info!r}: run that stage again")
        return info

    def _record(self) -> dict[str, Any] | None:
        try:
            record = json.loads((self.path / STAGE_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        # Another format, or damage: the stage runs again rather than being trusted.
        if not isinstance(record, dict) or record.get("format") != STAGE_FORMAT or "info" not in record:
            return None
        return record

"""Checkpoints of trainable state: safetensors and a JSON position, complete or absent.

In: an engine's consolidated state.  Out: `<directory>/step-00001200/{state.safetensors,position.json}`.
A checkpoint appears by one rename, so whatever kills a run leaves the last complete one; one that was damaged later
shows by its hash and gives way to the one before.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config.fingerprint import file_sha256

FORMAT_VERSION = 2
_NAME = re.compile(r"^step-(\d{8})$")
_STATE, _POSITION = "state.safetensors", "position.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A state and how many updates led to it."""

    updates: int
    """Updates done; the next step has this number."""
    state: dict[str, Tensor]
    """The engine's consolidated state."""


class CheckpointStore:
    """The checkpoints of one training run."""

    def __init__(self, directory: Path, *, fingerprint: str, keep: int = 2) -> None:
        self.directory, self._fingerprint, self._keep = directory, fingerprint, keep

    def path(self, updates: int) -> Path:
        """Folder of the checkpoint after `updates` updates."""
        return self.directory / f"step-{updates:08d}"

    def save(self, updates: int, state: Mapping[str, Tensor]) -> Path:
        """Write a checkpoint, then drop all but the newest `keep`; a `ValueError` where it cannot be written."""
        target = self.path(updates)
        scratch = self.directory / f".{target.name}.{os.getpid()}"
        try:
            self._write(scratch, updates, state)
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise ValueError(
                f"checkpoint {target} cannot be written ({error}): free or mend that disk, then the same command "
                "continues from the checkpoint before"
            ) from error
        for _, old in self._complete()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def newest(self, *, on_damaged: Callable[[str], object] = _log.warning) -> int | None:
        """Updates of the newest intact checkpoint of this configuration, or None; tells of each damaged one it passes.

        Workers that asked for themselves might see different ones, while a process of an earlier run still writes.
        """
        for updates, path in reversed(self._complete()):
            try:
                position = _position(path)
                if position["fingerprint"] != self._fingerprint:
                    continue
                if position["state_sha256"] != file_sha256(path / _STATE):
                    raise _DamagedError(f"{_STATE} has another SHA-256 than when it was written")
            except (_DamagedError, OSError, KeyError) as error:
                on_damaged(f"checkpoint {path} is damaged ({error}): it is passed over")
            else:
                return updates
        return None

    def load(self, updates: int) -> Checkpoint:
        """The checkpoint that `newest` named; its hash is not computed again."""
        return Checkpoint(updates=updates, state=load_file(self.path(updates) / _STATE))

    def latest(self) -> Checkpoint | None:
        """The newest intact checkpoint of this configuration, or None."""
        updates = self.newest()
        return None if updates is None else self.load(updates)

    def clear(self) -> None:
        """Remove all checkpoints, the unfinished ones too."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what writers left unfinished that were killed. At the start of a run: later ones may be its own."""
        for scratch in self.directory.glob(".step-*"):
            shutil.rmtree(scratch, ignore_errors=True)

    def _write(self, scratch: Path, updates: int, state: Mapping[str, Tensor]) -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        save_file({key: value.contiguous() for key, value in state.items()}, scratch / _STATE)
        position = {
            "format_version": FORMAT_VERSION,
            "updates": updates,
            "fingerprint": self._fingerprint,
            "state_sha256": file_sha256(scratch / _STATE),
        }
        (scratch / _POSITION).write_text(json.dumps(position))
        for path in scratch.iterdir():
            with path.open("rb+") as handle:
                os.fsync(handle.fileno())

    def _complete(self) -> list[tuple[int, Path]]:
        if not self.directory.is_dir():
            return []
        found = [(match, path) for path in self.directory.iterdir() if (match := _NAME.match(path.name))]
        return sorted((int(match.group(1)), path) for match, path in found)


class _DamagedError(Exception):
    """A checkpoint is not what was written."""


def _position(path: Path) -> dict[str, Any]:
    try:
        position = json.loads((path / _POSITION).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _DamagedError(f"{_POSITION}: {error}") from error
    if not isinstance(position, dict):
        raise _DamagedError(f"{_POSITION} is no mapping")
    if position.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: checkpoint format {position.get('format_version')}, this code reads {FORMAT_VERSION}; "
            "delete the folder to train anew"
        )
    return position

"""Checkpoints of trainable state: safetensors and a JSON position, complete or absent.

In: an engine's consolidated state.  Out: `<directory>/step-00001200/{state.safetensors,position.json}`.
A checkpoint appears by one rename, so whatever kills a run leaves the last complete one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT_VERSION = 1
_NAME = re.compile(r"^step-(\d{8})$")


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

    def save(self, updates: int, state: Mapping[str, Tensor]) -> Path:
        """Write a checkpoint, then drop all but the newest `keep`."""
        target = self.directory / f"step-{updates:08d}"
        scratch = self.directory / f".{target.name}.{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        save_file({key: value.contiguous() for key, value in state.items()}, scratch / "state.safetensors")
        position = {"format_version": FORMAT_VERSION, "updates": updates, "fingerprint": self._fingerprint}
        (scratch / "position.json").write_text(json.dumps(position))
        for path in scratch.iterdir():
            with path.open("rb+") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        for _, old in self._complete()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint of this configuration, or None."""
        for updates, path in reversed(self._complete()):
            position = json.loads((path / "position.json").read_text())
            if position.get("format_version") != FORMAT_VERSION:
                raise ValueError(
                    f"{path}: checkpoint format {position.get('format_version')}, this code reads {FORMAT_VERSION}; "
                    "delete the folder to train anew"
                )
            if position["fingerprint"] == self._fingerprint:
                return Checkpoint(updates=updates, state=load_file(path / "state.safetensors"))
        return None

    def clear(self) -> None:
        """Remove all checkpoints, the unfinished ones too."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _complete(self) -> list[tuple[int, Path]]:
        if not self.directory.is_dir():
            return []
        found = [(match, path) for path in self.directory.iterdir() if (match := _NAME.match(path.name))]
        return sorted((int(match.group(1)), path) for match, path in found)

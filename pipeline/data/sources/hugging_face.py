"""Hugging Face datasets: what `save_to_disk` wrote, or the Parquet files of a dataset on the hub.

In: a folder (here or remote), or a hub id with its revision.  Out: one row a record of every split.

No loading script is run and none is downloaded. Without a column for the id, rows are named by split and number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.data.arrow_tables import ArrowTable, JoinedTable
from pipeline.data.places import LocalPlace, Place, is_uri, place_at
from pipeline.data.sources.base import DEFAULT_SPLIT, default_of, split_of
from pipeline.data.sources.table import TableSource
from pipeline.data.tables import ParquetTable, Table

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SHARD_NAME = re.compile(r"(?P<split>[A-Za-z][\w.]*?)-\d+-of-\d+")
_DICT, _STATE = "dataset_dict.json", "state.json"
_PLAIN_NAME = re.compile(r"[\w][\w .-]*")


@dataclass(frozen=True, slots=True)
class _File:
    """One file of a dataset."""

    split: str
    place: Place
    relative: str


class HuggingFaceSource(TableSource):
    """Rows of all splits of one dataset."""

    def check(self) -> None:
        """Raise `ValueError` where the dataset, one of its columns or every row is missing."""
        if self.config.payload == "path":
            raise ValueError(
                "source.payload: kind 'hf_dataset' holds its signals in the table: set payload to 'bytes' (images, "
                "audio, video) or 'inline' (text), got 'path'"
            )
        super().check()

    @property
    def _format(self) -> str:
        return "parquet"

    @cached_property
    def _place(self) -> Place:
        place = place_at(self.config.path, self.root)
        return place if place.is_folder() else LocalPlace(self._snapshot())

    def _snapshot(self) -> Path:
        """The Parquet files of a hub id, downloaded or found in the hub's own cache."""
        path, revision = self.config.path, self.config.revision
        if is_uri(path) or _HUB_ID.fullmatch(path) is None:
            raise ValueError(f"source.path: folder {self.name} does not exist; give one, or a Hugging Face id")
        if revision is None:
            raise ValueError(
                f"source.revision: {path!r} is no folder below {self.root}, so it is taken for a Hugging Face id, that "
                f"needs a revision: a commit, or 'refs/convert/parquet' for the hub's own Parquet files"
            )
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(path, repo_type="dataset", revision=revision, allow_patterns=["*.parquet"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"source.path: {path!r} is no folder below {self.root}, and revision {revision} of that Hugging Face "
                f"dataset can neither be downloaded nor found in the cache ({type(error).__name__}: {reason})"
            ) from error

    @cached_property
    def _files(self) -> list[_File]:
        """Files in a fixed order, each with its split."""
        if self._place.below(_DICT).is_file():
            splits = _json(self._place.below(_DICT)).get("splits")
            if not isinstance(splits, list) or not splits:
                raise ValueError(f"source.path: {self._place.name}/{_DICT} names no splits: save the dataset again")
            names = [_plain(split, self._place) for split in splits]
            return [file for name in names for file in _saved(self._place, f"{name}/", name)]
        if self._place.below(_STATE).is_file():
            return list(_saved(self._place, "", None))
        return self._parquet_files()

    def _parquet_files(self) -> list[_File]:
        names = sorted(entry.name for entry in self._place.entries() if entry.name.endswith(".parquet"))
        if not names:
            raise ValueError(
                f"source.path: {self.name} holds neither {_DICT}, {_STATE} nor Parquet files: give a folder of "
                f"save_to_disk, or a hub id with revision 'refs/convert/parquet'"
            )
        chosen = self.config.name
        if chosen is not None:
            kept = [name for name in names if chosen in name.split("/")[:-1]]
            if not kept:
                folders = sorted({part for name in names for part in name.split("/")[:-1]})
                raise ValueError(f"source.name: {self.name} has no {chosen!r}; its folders are {folders}")
            names = kept
        elif len(configurations := sorted(set(map(_configuration, names)))) > 1:
            raise ValueError(f"source.name: {self.name} has several configurations, name one of {configurations}")
        return [_File(_split_of_parquet(name), self._place.below(name), name) for name in names]

    @cached_property
    def _table(self) -> Table:
        tables: list[tuple[str, Table]] = []
        for file in self._files:
            if not file.place.is_file():
                raise ValueError(f"source.path: {file.place.name} is missing: copy the dataset's folder whole")
            table: Table = ArrowTable(file.place) if file.relative.endswith(".arrow") else ParquetTable(file.place)
            tables.append((file.split, table))
        id_field = self.config.id_field
        named = all(id_field in table.columns for _, table in tables) or id_field != default_of("id_field")
        return JoinedTable(tables, split_field=self.config.split_field, id_field=None if named else id_field)

    def fingerprint(self) -> str:
        """SHA-256 of the field configuration, and each file's split, name, size and time of change.

        Files of a hub id count by their commit, which is the name of their folder.
        """
        digest = self._digest()
        from_hub = self._place.name != place_at(self.config.path, self.root).name
        commit = Path(self._place.name).name if from_hub else ""
        for file in self._files:
            state = commit or file.place.state()
            digest.update(f"{file.split!r}:{file.relative!r}:{state}\n".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def _saved(folder: Place, prefix: str, split: str | None) -> Iterator[_File]:
    """The Arrow files of one split, as `save_to_disk` wrote them."""
    state_file = folder.below(f"{prefix}{_STATE}")
    if not state_file.is_file():
        raise ValueError(f"source.path: {state_file.name} is missing: copy the dataset's folder whole")
    state = _json(state_file)
    if state.get("_indices_data_files"):
        raise ValueError(
            f"source.path: {state_file.name} has an index beside its data: call flatten_indices() and save"
        )
    entries = state.get("_data_files")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"source.path: {state_file.name} names no data files: save the dataset again")
    told = state.get("_split")
    for entry in entries:
        name = _plain(entry.get("filename"), folder)
        if not name.endswith(".arrow"):
            raise ValueError(f"source.path: {state_file.name} names {name!r}, expected an .arrow file: save it again")
        own = split if split is not None else told if isinstance(told, str) and told else DEFAULT_SPLIT
        yield _File(own, folder.below(f"{prefix}{name}"), f"{prefix}{name}")


def _split_of_parquet(name: str) -> str:
    """`<split>-00000-of-00001.parquet`, `<split>/0000.parquet` or any path with a split's usual name; else `train`."""
    *folders, base = name.removesuffix(".parquet").split("/")
    shard = _SHARD_NAME.fullmatch(base)
    if shard is not None:
        return split_of(shard["split"]) or shard["split"]
    if base.isdigit() and folders:
        own = folders[-1].removeprefix("partial-")
        return split_of(own) or own
    return split_of(base, folders[::-1]) or DEFAULT_SPLIT


def _configuration(name: str) -> str:
    """The folder of a file where it stands for a configuration; empty where it stands for a split or for nothing."""
    first, *inner = name.split("/")
    if not inner:
        return ""
    names_split = len(inner) == 1 and (inner[0].removesuffix(".parquet").isdigit() or split_of("", [first]) is not None)
    return "" if names_split else first


def _json(place: Place) -> dict[str, Any]:
    try:
        with place.open() as file:
            content = json.loads(file.read().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"source.path: {place.name} is not JSON: save the dataset again") from error
    if not isinstance(content, dict):
        raise ValueError(f"source.path: {place.name} is not a JSON object: save the dataset again")
    return content


def _plain(name: object, folder: Place) -> str:
    """A name that stays in its folder."""
    if not isinstance(name, str) or _PLAIN_NAME.fullmatch(name) is None:
        raise ValueError(
            f"source.path: {folder.name} names a file or split {name!r}, which is no plain name: save it again"
        )
    return name

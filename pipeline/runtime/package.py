"""What a submitted job takes along: a copy of the checkout with the resolved configuration in it.

In: the checkout, a configuration, and the storage that all nodes share.  Out: a folder for Ray to upload, or a
`ValueError` that says why the job could not run there.

Not taken along: `.git`, results, caches, virtual environments, symbolic links, and files named `.env...`, which hold
secrets.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.config.fingerprint import fingerprint
from pipeline.config.load import to_yaml
from pipeline.config.schema import ExperimentConfig
from pipeline.data.places import is_uri
from pipeline.runtime.session import CODE_EXCLUDES

SUBMITTED_CONFIG = "submitted.yaml"
MAX_MIB = 100
_SKIPPED = {*CODE_EXCLUDES, "__pycache__", "venv", ".import_linter_cache"}
_RESULTS = "runs"


def stage_package(root: Path, config: ExperimentConfig, target: Path, *, max_mib: float = MAX_MIB) -> int:
    """Copy what travels from `root` into the empty folder `target`; returns its bytes."""
    sizes = {path: path.stat().st_size for path in packaged_files(root)}
    total = sum(sizes.values())
    if total > max_mib * 2**20:
        parts: Counter[str] = Counter()
        for path, size in sizes.items():
            parts[_place(path.relative_to(root))] += size
        biggest = ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in parts.most_common(3))
        raise ValueError(
            f"the working directory is too large: {total / 2**20:,.1f} MiB, the limit is {max_mib:,g} (biggest: "
            f"{biggest}): move data out of {root} to storage that all nodes share, or raise --max-mib"
        )
    for path in sizes:
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    (target / SUBMITTED_CONFIG).write_text(to_yaml(config), encoding="utf-8")
    return total


def packaged_files(root: Path) -> Iterator[Path]:
    """The files of a checkout that travel with a job."""
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not _skipped(name) and not Path(folder, name).is_symlink())
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and not _skipped(name):
                yield path


def on_the_cluster(config: ExperimentConfig, root: Path, storage: str | None) -> ExperimentConfig:
    """`config` with every path as the cluster's nodes are to see it.

    `storage` is a folder that all nodes share: it takes the place of `runs`, for results and for data that lies there.
    Or the URI of an object store, which has neither renames nor appends: jobs then work in a folder of their node (in
    `runs_dir` where it is absolute), which is fetched from there and kept there.
    """
    storage = storage if storage is not None else str(config.runs_dir)
    mirror = config.runtime.mirror
    if is_uri(storage):
        mirror = storage
        own = PurePosixPath(config.runs_dir)
        storage = str(own if own.is_absolute() else PurePosixPath("/tmp", f"semi-runs-{fingerprint(mirror)}"))
    if not PurePosixPath(storage).is_absolute():
        raise ValueError(
            f"--storage: needed is the absolute path of a folder that all nodes share, got {storage!r}: a job runs in "
            "a temporary copy of this checkout, and what it wrote to a relative path would be lost with it"
        )
    datasets = tuple(
        replace(dataset, source=replace(dataset.source, path=_shared(dataset.source.path, root, storage, dataset.name)))
        for dataset in config.datasets
    )
    miniature = config.miniature
    if miniature is not None:
        shared = _below_results(str(miniature.data_dir), storage)
        miniature = replace(miniature, data_dir=type(miniature.data_dir)(shared or miniature.data_dir))
    # A submitted job runs inside the cluster: an address for joining it from outside would be joined again.
    runtime = replace(config.runtime, address=None, mirror=mirror)
    runs_dir = type(config.runs_dir)(storage)
    return replace(config, datasets=datasets, miniature=miniature, runtime=runtime, runs_dir=runs_dir)


def _shared(path: str, root: Path, storage: str, dataset: str) -> str:
    if is_uri(path) or PurePosixPath(path).is_absolute():
        return path
    if moved := _below_results(path, storage):
        return moved
    travels = not any(_skipped(part) for part in PurePosixPath(path).parts) and (root / path).exists()
    if not travels:
        raise ValueError(
            f"dataset {dataset!r}: source.path {path!r} does not travel with the job: give an absolute path that all "
            f"nodes share, a URI, or a file of this checkout"
        )
    return path


def _below_results(path: str, storage: str) -> str | None:
    parts = PurePosixPath(path).parts
    return str(PurePosixPath(storage, *parts[1:])) if parts[:1] == (_RESULTS,) else None


def _skipped(name: str) -> bool:
    return name in _SKIPPED or name == ".env" or name.startswith(".env.") or name.endswith(".egg-info")


def _place(relative: Path) -> str:
    """The folder that a message names: one or two levels are enough to find it."""
    return "/".join(relative.parts[:2]) if len(relative.parts) > 2 else relative.parts[0]

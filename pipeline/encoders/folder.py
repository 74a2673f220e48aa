"""The folder that a model is loaded from: found, verified, fingerprinted.

In: a Hugging Face id or a local path.  Out: a local folder whose files are those of its `SHA256SUMS`, where it has one.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from pipeline.config.fingerprint import fingerprint
from pipeline.config.schema import EncoderConfig, SignalKind

# Part of every fingerprint: raise it with any change to the encoders' code that alters vectors.
_CODE_VERSION = 1
CHECKSUM_FILE = "SHA256SUMS"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Weights as safetensors only: a pickle in the repository is not even downloaded.
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")


def model_folder(path: str, *, revision: str | None, root: Path) -> Path:
    """Local folder of a model; a Hugging Face id is downloaded (or found in the local cache) first."""
    folder = (root / path).resolve()
    if folder.is_dir():
        verify_checksums(folder)
        return folder
    if _HUB_ID.fullmatch(path) is None:
        raise ValueError(f"model path {path!r}: no folder {folder}; give a folder, or a Hugging Face id `owner/name`")
    return _download(path, revision, folder)


def _download(hub_id: str, revision: str | None, folder: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model path {hub_id!r}: no folder {folder}, and revision {revision or 'main'} of that Hugging Face id "
            f"can neither be downloaded nor found in the cache ({type(error).__name__}: {reason})"
        ) from error


def model_files(folder: Path) -> list[Path]:
    """The files that decide what a model computes, in a fixed order."""
    return sorted({file for pattern in _WANTED for file in folder.rglob(pattern) if file.is_file()})


def encoder_fingerprint(config: EncoderConfig, kind: SignalKind, root: Path) -> str:
    """What `load_encoder(...).fingerprint` would be, without loading the model or the library that runs it."""
    return folder_fingerprint(config, kind, model_folder(config.path, revision=config.revision, root=root))


def folder_fingerprint(config: EncoderConfig, kind: SignalKind, folder: Path) -> str:
    """Changes whenever the vectors of the model in `folder` could."""
    files = [(file.relative_to(folder).as_posix(), _sha256(file)) for file in model_files(folder)]
    settings = [config.revision, config.dtype, config.pooling]
    return fingerprint([_CODE_VERSION, kind, *settings, fingerprint(files)])


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` (as `sha256sum` does) over the model's files."""
    lines = [f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in model_files(folder)]
    (folder / CHECKSUM_FILE).write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path) -> None:
    """Compare the files with `SHA256SUMS`; a folder without one passes."""
    table = folder / CHECKSUM_FILE
    if not table.is_file():
        return
    rows = [line.split("  ", 1) for line in table.read_text(encoding="utf-8").splitlines()]
    expected = {name: digest for digest, name in rows}
    found = {file.relative_to(folder).as_posix(): _sha256(file) for file in model_files(folder)}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            problem = "is missing" if name not in found else "is not listed" if name not in expected else "has changed"
            raise ValueError(
                f"{folder / name} {problem} ({table.name} disagrees): restore the folder or build it again"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

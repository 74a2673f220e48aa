"""The folder that a model is loaded from: found, verified, fingerprinted.

In: a Hugging Face id or a local path.  Out: a local folder whose files are those of its `SHA256SUMS`, where it has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.fingerprint import file_sha256, fingerprint
from pipeline.config.schema import EncoderConfig, SignalKind
from pipeline.encoders.sentences import sentence_max_tokens

# Part of every fingerprint: raise it with any change to the encoders' code that alters vectors.
_CODE_VERSION = 1
# The same for what tokens are made of alone.
_TOKENS_VERSION = 1
# Families whose vectors the code came to make otherwise, all others staying what they were.
_REVISED_FAMILIES = ("siglip", "siglip2", "clap")
CHECKSUM_FILE = "SHA256SUMS"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Weights as safetensors only: a pickle in the repository is not even downloaded.
_WANTED = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")


def model_folder(path: str, *, revision: str | None, root: Path) -> Path:
    """Local folder of a model; a Hugging Face id is downloaded (or found in the local cache) first."""
    folder = (root / path).resolve()
    if folder.is_dir():
        verify_checksums(folder)
        return folder
    if _HUB_ID.fullmatch(path) is None:
        raise ValueError(
            f"model path {path!r}: no folder {folder}; give a folder, or a Hugging Face id `owner/name`, "
            f"or for an encoder `module:Class`"
        )
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


def used_revision(config: EncoderConfig) -> str | None:
    """Commit of a Hugging Face id as it lies in the local cache, else what the configuration says."""
    if _HUB_ID.fullmatch(config.path) is None:
        return config.revision
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(config.path, "config.json", revision=config.revision)
    # .../snapshots/<commit>/config.json
    return Path(file).parent.name if isinstance(file, str) else config.revision


def model_files(folder: Path) -> list[Path]:
    """The files that decide what a model computes, in a fixed order."""
    return sorted({file for pattern in _WANTED for file in folder.rglob(pattern) if file.is_file()})


def files_fingerprint(folder: Path) -> str:
    """Changes with any file of a model."""
    return fingerprint([(file.relative_to(folder).as_posix(), file_sha256(file)) for file in model_files(folder)])


def folder_fingerprint(config: EncoderConfig, kind: SignalKind, folder: Path) -> str:
    """Changes whenever the vectors of the model in `folder` could."""
    settings = [config.revision, config.dtype, config.pooling]
    files = files_fingerprint(folder)
    return fingerprint([_CODE_VERSION, kind, *settings, files, *_later_settings(config, folder)])


def _later_settings(config: EncoderConfig, folder: Path) -> Iterator[object]:
    """What came after the first fingerprints counts only where it is used, so that all others stay what they were."""
    for name in ("layer", "frames", "rate_hz"):
        value = getattr(config, name)
        if value is not None:
            yield name, value
    if config.tokens is not None:
        yield "tokens", _TOKENS_VERSION, config.tokens.count, config.tokens.reduce
    if config.dtype != "float32":
        yield "pooled in float32"
    limit = sentence_max_tokens(folder)
    if limit is not None:
        yield "at most", limit
    family = _model_type(folder)
    if family in _REVISED_FAMILIES:
        yield "revised", family


def _model_type(folder: Path) -> object:
    config = folder / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.is_file() else None


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` (as `sha256sum` does) over the model's files."""
    lines = [f"{file_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in model_files(folder)]
    (folder / CHECKSUM_FILE).write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path) -> None:
    """Compare the files with `SHA256SUMS`; a folder without one passes."""
    table = folder / CHECKSUM_FILE
    if not table.is_file():
        return
    rows = [line.split("  ", 1) for line in table.read_text(encoding="utf-8").splitlines()]
    expected = {name: digest for digest, name in rows}
    found = {file.relative_to(folder).as_posix(): file_sha256(file) for file in model_files(folder)}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            problem = "is missing" if name not in found else "is not listed" if name not in expected else "has changed"
            raise ValueError(
                f"{folder / name} {problem} ({table.name} disagrees): restore the folder or build it again"
            )

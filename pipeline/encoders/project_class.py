"""Encoders that are classes of the project, named `module:Class` in the configuration.

In: the name, and decoded signals.  Out: the class's vectors, checked and as float32.

The class is called as `Class(config, kind, device)` and has `width`, `fingerprint` and `encode(signals)`; its `name` is
the configuration's. It must stand in a file below the project's root: that is what travels to the workers of a cluster,
and what the reader of a configuration can look at. The file's hash is part of the encoder's fingerprint.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.fingerprint import file_sha256, fingerprint
from pipeline.config.root import project_root
from pipeline.config.schema import EncoderConfig, SignalKind
from pipeline.signal import Signal

# Part of every fingerprint: raise it with any change to this file that alters vectors.
_CODE_VERSION = 1
_CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_class_path(path: str) -> bool:
    """Whether an encoder's path is `module:Class`."""
    return _CLASS_PATH.fullmatch(path) is not None


class ProjectEncoder:
    """A class of the project behind the `Encoder` protocol."""

    def __init__(self, config: EncoderConfig, kind: SignalKind, root: Path, device: str) -> None:
        file = _module_file(config, root)
        cls = _imported(config, file)
        try:
            self._encoder = cls(config, kind, device)
        except Exception as error:
            raise ValueError(_problem(config, f"could not be made for {kind}: {_one_line(error)}")) from error
        self.name = config.name
        self.width, own = _checked(self._encoder, config)
        settings = [config.revision, config.dtype, config.pooling, config.layer, config.frames, config.rate_hz]
        source = file_sha256(file)
        self.fingerprint = fingerprint([_CODE_VERSION, config.path, source, kind, *settings, config.options, own])

    def encode(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        """Vectors `[n, width]`, in the order of `signals`."""
        if not signals:
            return np.empty((0, self.width), dtype=np.float32)
        vectors = np.asarray(self._encoder.encode(signals))
        if vectors.shape != (len(signals), self.width) or vectors.dtype.kind not in "fiub":
            raise TypeError(
                f"encoder {self.name!r}: encode gave {vectors.dtype} of shape {vectors.shape} for {len(signals)} "
                f"signals, expected numbers of shape ({len(signals)}, {self.width})"
            )
        return vectors.astype(np.float32, copy=False)


def load_encoder(config: EncoderConfig, kind: SignalKind, root: Path, device: str) -> ProjectEncoder:
    """Import the class and make its encoder; what breaks the contract fails here, as one `ValueError`."""
    return ProjectEncoder(config, kind, root, device)


def _module_file(config: EncoderConfig, root: Path) -> Path:
    """The file below the project's root that holds the module."""
    relative = Path(*config.path.partition(":")[0].split("."))
    roots = dict.fromkeys((root.resolve(), project_root()))
    for folder in roots:
        for file in (folder / relative.with_suffix(".py"), folder / relative / "__init__.py"):
            if file.is_file():
                return file
    raise ValueError(
        _problem(
            config,
            f"is not in the project: there is no {relative.as_posix()}.py below {' or '.join(map(str, roots))}; put "
            f"the class into such a file (it may import whatever is installed), and run from the project's root",
        )
    )


def _imported(config: EncoderConfig, file: Path) -> Any:
    module_name, _, class_name = config.path.partition(":")
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(_problem(config, f"cannot be imported from {file}: {_one_line(error)}")) from error
    found = getattr(module, "__file__", None)
    if found is None or Path(found).resolve() != file.resolve():
        origin = found or ("the interpreter" if module_name in sys.builtin_module_names else "elsewhere")
        raise ValueError(
            _problem(
                config, f"was imported from {origin} instead of {file}: another module has that name; rename the file"
            )
        )
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type) or not callable(getattr(cls, "encode", None)):
        classes = [name for name, value in vars(module).items() if isinstance(value, type) and hasattr(value, "encode")]
        raise ValueError(
            _problem(
                config,
                f"names no class with a method `encode`; classes with one in {file}: {', '.join(classes) or 'none'}",
            )
        )
    return cls


def _checked(encoder: Any, config: EncoderConfig) -> tuple[int, str]:
    """Width and fingerprint of a user's encoder, if they are what the contract says."""
    width, own = getattr(encoder, "width", None), getattr(encoder, "fingerprint", None)
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise ValueError(_problem(config, f"has width {width!r}: it must be the length of its vectors, 1 or more"))
    if not isinstance(own, str) or not own:
        raise ValueError(
            _problem(
                config,
                f"has fingerprint {own!r}: it must be a non-empty string that changes whenever its vectors could",
            )
        )
    if config.width is not None and config.width != width:
        raise ValueError(
            _problem(config, f"has width {width}, but the configuration says width {config.width}: correct one of them")
        )
    return width, own


def _problem(config: EncoderConfig, what: str) -> str:
    return f"encoder {config.name!r}: {config.path} {what}"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

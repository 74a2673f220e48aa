"""From a configuration to an encoder: the one entry to this layer.

In: an `EncoderConfig` and the kind of signals.  Out: an `Encoder` or `TokenEncoder`, or its fingerprint before it is
loaded.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config.schema import EncoderConfig, SignalKind
from pipeline.encoders import precomputed, project_class
from pipeline.encoders.base import Encoder, TokenEncoder
from pipeline.encoders.folder import folder_fingerprint, model_folder


def load_encoder(config: EncoderConfig, kind: SignalKind, root: Path, device: str = "cpu") -> Encoder:
    """Load a frozen encoder for signals of `kind`; what cannot work fails here, as one `ValueError`."""
    check_settings(config, kind)
    if config.tokens is not None:
        raise ValueError(f"encoder {config.name!r}: it gives tokens, where one vector is needed: remove `tokens`")
    if config.path == precomputed.PATH:
        return precomputed.Precomputed(config)
    if project_class.is_class_path(config.path):
        return project_class.load_encoder(config, kind, root, device)
    # Classical encoders do without transformers, which takes seconds to import.
    from pipeline.encoders import huggingface

    return huggingface.load_encoder(config, kind, root, device)


def load_token_encoder(config: EncoderConfig, kind: SignalKind, root: Path, device: str = "cpu") -> TokenEncoder:
    """The same for an encoder whose `tokens` is set."""
    check_settings(config, kind)
    from pipeline.encoders import token_features

    return token_features.load_token_encoder(config, kind, root, device)


def encoder_fingerprint(config: EncoderConfig, kind: SignalKind, root: Path) -> str:
    """What `load_encoder(...).fingerprint` would be.

    A model in a folder is not loaded for it, nor is the library that runs it; a class of the project is made once.
    """
    check_settings(config, kind)
    if config.path == precomputed.PATH:
        return precomputed.Precomputed(config).fingerprint
    if project_class.is_class_path(config.path):
        return project_class.load_encoder(config, kind, root, "cpu").fingerprint
    return folder_fingerprint(config, kind, model_folder(config.path, revision=config.revision, root=root))


def check_settings(config: EncoderConfig, kind: SignalKind) -> None:
    """Refuse settings that would have no effect on signals of `kind`."""
    if (config.path == precomputed.PATH) != (kind == "vector"):
        raise ValueError(
            f"encoder {config.name!r}: its path is {config.path!r}, but its signals are of kind {kind}: vectors go "
            f"with {precomputed.PATH!r}, all other signals with a model"
        )
    if config.path == precomputed.PATH:
        precomputed.check_settings(config)
        return
    if config.rate_hz is not None and kind != "series":
        raise ValueError(
            f"encoder {config.name!r}: rate_hz is {config.rate_hz:g}, but its signals are of kind {kind}: only series "
            f"take it (audio is brought to the model's own rate); remove it"
        )
    if config.frames is not None and kind != "video":
        raise ValueError(
            f"encoder {config.name!r}: frames is {config.frames}, but its signals are of kind {kind}: only video takes "
            f"it; remove it"
        )
    if config.tokens is not None and config.pooling != "auto":
        raise ValueError(
            f"encoder {config.name!r}: pooling is {config.pooling}, but `tokens` stores tokens that are not pooled: "
            f"remove one of them"
        )
    if config.tokens is not None and project_class.is_class_path(config.path):
        raise ValueError(
            f"encoder {config.name!r}: tokens is set, but {config.path!r} is a class of the project, which gives "
            f"vectors: remove it, or name a transformers model"
        )
    if config.options and not project_class.is_class_path(config.path):
        raise ValueError(
            f"encoder {config.name!r}: options is {config.options}, but {config.path!r} is a transformers model, which "
            f"takes none: remove it, or name a `module:Class` that reads it"
        )

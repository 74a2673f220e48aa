"""A model's output to one vector a row.

In: a `transformers` model and the tensors of a batch.  Out: vectors `[rows, width]`.

Shape suffixes: N rows, T tokens, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.config.schema import SignalKind

Pooling = Literal["own", "mean", "cls", "last"]
Forward = Callable[[Mapping[str, Tensor]], Tensor]

_TOWERS: dict[SignalKind, tuple[str, str]] = {
    "image": ("get_image_features", "vision_model"),
    "video": ("get_image_features", "vision_model"),
    "audio": ("get_audio_features", "audio_model"),
    "text": ("get_text_features", "text_model"),
}
_TOKEN_KINDS: tuple[SignalKind, ...] = ("text", "molecule")


def resolve_pooling(
    wanted: str, *, model: Any, kind: SignalKind, folder: Path, random_weights: frozenset[str]
) -> Pooling:
    """What `auto` means for this model: its own pooled output where that was trained, else the mean of its tokens.

    Own is a dual encoder's projection, or a pooler whose weights are in the checkpoint. Text models average their
    tokens unless a sentence-transformers folder says otherwise: a BERT pooler was trained for another purpose.
    """
    if wanted != "auto":
        return wanted  # type: ignore[return-value] # the configuration's own literal, less `auto`
    if hasattr(model, _TOWERS.get(kind, ("", ""))[0] or "no tower"):
        return "own"
    if kind in _TOKEN_KINDS:
        return _sentence_pooling(folder)
    has_own = any("pool" in name for name, _ in model.named_modules())
    return "own" if has_own and not any("pool" in name for name in random_weights) else "mean"


def _sentence_pooling(folder: Path) -> Pooling:
    path = folder / "1_Pooling" / "config.json"
    modes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if modes.get("pooling_mode_cls_token"):
        return "cls"
    return "last" if modes.get("pooling_mode_lasttoken") else "mean"


def forward_of(model: Any, kind: SignalKind, pooling: Pooling) -> Forward:
    """The forward pass of `kind`'s tower, pooled."""
    features, tower = _TOWERS.get(kind, ("", ""))
    if pooling == "own" and hasattr(model, features or "no tower"):
        method = getattr(model, features)
        return lambda inputs: _own(method(**inputs))
    if hasattr(model, tower or "no tower"):
        model = getattr(model, tower)
    elif getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if pooling == "own":
        return lambda inputs: _own(model(**inputs))
    reduce = {"mean": _mean, "cls": _first, "last": _last}[pooling]

    def forward(inputs: Mapping[str, Tensor]) -> Tensor:
        hidden = _tokens(model(**inputs).last_hidden_state, kind)
        return reduce(hidden, _token_mask(model, inputs, hidden))

    return forward


def _own(output: Any) -> Tensor:
    pooled = output if isinstance(output, Tensor) else output.pooler_output
    if pooled is None:
        raise ValueError("the model has no pooled output of its own; choose pooling mean, cls or last")
    return pooled.flatten(1)


def _tokens(hidden: Tensor, kind: SignalKind) -> Tensor:
    """`[N, T, D]` of a Transformer's tokens, a convolutional map `[N, D, h, w]` or a series model's `[N, C, T, D]`."""
    if hidden.ndim == 3:
        return hidden
    return hidden.flatten(1, -2) if kind == "series" else hidden.flatten(2).transpose(1, 2)


def _token_mask(model: Any, inputs: Mapping[str, Tensor], hidden_NTD: Tensor) -> Tensor:
    mask = inputs.get("attention_mask")
    if mask is None:
        return hidden_NTD.new_ones(hidden_NTD.shape[:2])
    if mask.shape[1] != hidden_NTD.shape[1]:
        # Models that read raw waves shorten time by strided convolutions and know by how much.
        mask = model._get_feature_vector_attention_mask(hidden_NTD.shape[1], mask)
    return mask.to(hidden_NTD.dtype)


def _mean(hidden_NTD: Tensor, mask_NT: Tensor) -> Tensor:
    weights_NT1 = mask_NT[..., None]
    return (hidden_NTD * weights_NT1).sum(dim=1) / weights_NT1.sum(dim=1)


def _first(hidden_NTD: Tensor, mask_NT: Tensor) -> Tensor:
    return _at(hidden_NTD, mask_NT.argmax(dim=1))


def _last(hidden_NTD: Tensor, mask_NT: Tensor) -> Tensor:
    steps = torch.arange(mask_NT.shape[1], device=mask_NT.device)
    return _at(hidden_NTD, (mask_NT * steps).argmax(dim=1))


def _at(hidden_NTD: Tensor, token_N: Tensor) -> Tensor:
    return hidden_NTD[torch.arange(len(hidden_NTD), device=hidden_NTD.device), token_N]

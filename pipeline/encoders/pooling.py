"""A model's output to one vector a row, or to its tokens.

In: a `transformers` model and the tensors of a batch.  Out: vectors `[rows, width]`; or tokens and their mask.

Shape suffixes: N rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config.schema import SignalKind
from pipeline.encoders.sentences import sentence_pooling

Forward = Callable[[Mapping[str, Tensor]], Tensor]
"""From the tensors of a batch to vectors `[N, D]`."""

TokenForward = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]
"""From the tensors of a batch to tokens `[N, T, D]` and what they count, `[N, T]`: 1, or 0 for padding."""

_Reduce = Callable[[Tensor, Tensor], Tensor]
# Dual encoders: the method with the trained projection, and the tower whose tokens the other poolings take.
_TOWERS: dict[SignalKind, tuple[str, str]] = {
    "image": ("get_image_features", "vision_model"),
    "video": ("get_image_features", "vision_model"),
    "audio": ("get_audio_features", "audio_model"),
    "text": ("get_text_features", "text_model"),
}


def pooled_forward(
    model: Any, kind: SignalKind, pooling: str, folder: Path, example: Mapping[str, Tensor], *, layer: int | None = None
) -> Forward:
    """The forward pass of the model's part for `kind`, pooled as configured.

    `auto` is the model's own pooled output where it is trained (a dual encoder's projection, or a pooler: weights that
    the checkpoint lacks are NaN and show in the example's output), else the mean of its tokens. Text models average
    their tokens unless a sentence-transformers folder says otherwise: a BERT pooler was trained for another purpose.
    With `layer` the tokens are those of `hidden_states[layer]`, and the model's own pooled output is not taken.
    """
    projection, _ = _TOWERS.get(kind, ("", ""))
    if pooling == "auto" and layer is None and projection and hasattr(model, projection):
        features = getattr(model, projection)
        return lambda inputs: _own(features(**inputs))
    model = _part(model, kind)
    if pooling == "auto":
        if kind in ("text", "molecule"):
            pooling = sentence_pooling(folder)
        else:
            pooling = "mean" if layer is not None else _best_pooling(model, example)
    if pooling == "own":
        return lambda inputs: _own(model(**inputs))
    reduce, tokens_of = _REDUCTIONS[pooling], _token_forward(model, kind, example, layer)
    return lambda inputs: reduce(*tokens_of(inputs))


def token_forward(model: Any, kind: SignalKind, example: Mapping[str, Tensor], *, layer: int | None) -> TokenForward:
    """The forward pass of the model's part for `kind`, up to the float32 tokens that `pooling: mean` averages."""
    return _token_forward(_part(model, kind), kind, example, layer)


def _part(model: Any, kind: SignalKind) -> Any:
    """The tower of a dual encoder that reads `kind`, the encoder of an encoder-decoder, or the model itself."""
    _, tower = _TOWERS.get(kind, ("", ""))
    if tower and hasattr(model, tower):
        return getattr(model, tower)
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def _token_forward(model: Any, kind: SignalKind, example: Mapping[str, Tensor], layer: int | None) -> TokenForward:
    hidden_of = _hidden(model, example, layer)

    def forward(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        hidden_NTD = _tokens(hidden_of(inputs), kind)
        # Half precision counts tokens wrong from 257 (bfloat16) or 2049 (float16) on.
        return hidden_NTD.float(), _token_mask(model, inputs, hidden_NTD)

    return forward


def _hidden(model: Any, example: Mapping[str, Tensor], layer: int | None) -> Forward:
    """From inputs to the features that are pooled, in the model's own shape."""
    if layer is None:
        return lambda inputs: model(**inputs).last_hidden_state
    states = getattr(model(**example, output_hidden_states=True), "hidden_states", None) or ()
    if not -len(states) <= layer < len(states):
        allowed = f"0 to {len(states) - 1}, or -{len(states)} to -1" if states else "none: leave it out"
        raise ValueError(f"layer is {layer}, but this model has hidden states {allowed}")
    return lambda inputs: model(**inputs, output_hidden_states=True).hidden_states[layer]


def _best_pooling(model: Any, example: Mapping[str, Tensor]) -> str:
    pooled = getattr(model(**example), "pooler_output", None)
    return "own" if pooled is not None and bool(pooled.isfinite().all()) else "mean"


def _own(output: Any) -> Tensor:
    pooled: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return pooled.flatten(1)


def _tokens(hidden: Tensor, kind: SignalKind) -> Tensor:
    """`[N, T, D]` of a Transformer's tokens, a convolutional map `[N, D, h, w]` or a series model's `[N, C, T, D]`."""
    if hidden.ndim == 3:
        return hidden
    return hidden.flatten(1, -2) if kind == "series" else hidden.flatten(2).transpose(1, 2)


def _token_mask(model: Any, inputs: Mapping[str, Tensor], hidden_NTD: Tensor) -> Tensor:
    mask = inputs.get("attention_mask", inputs.get("pixel_attention_mask"))
    if mask is None:
        return torch.ones(hidden_NTD.shape[:2], device=hidden_NTD.device)
    if mask.shape[1] != hidden_NTD.shape[1]:
        # Models that read raw waves shorten time by strided convolutions and know by how much.
        mask = model._get_feature_vector_attention_mask(hidden_NTD.shape[1], mask)
    return mask.float()


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


_REDUCTIONS: dict[str, _Reduce] = {"mean": _mean, "cls": _first, "last": _last}

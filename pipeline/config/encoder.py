"""The section of a frozen encoder.

In: plain values.  Out: an `EncoderConfig`, checked when it is built; `pipeline.config.schema` holds the whole tree.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from pipeline.config.types import STRICT, Dtype, Name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TokensConfig:
    """Token features: how many of them a sample has at most."""

    count: PositiveInt
    """Most tokens of a sample; one with fewer keeps its own."""
    reduce: Literal["average", "sample", "merge"] = "average"
    """How more become `count`: means of adjacent spans, evenly spaced ones, or the most similar merged (ToMe)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncoderConfig:
    """A frozen encoder, loaded by `transformers` Auto classes or made by a class of the project."""

    name: Name
    """Short name, used in paths and reports."""
    path: str
    """Hugging Face id, local folder (relative to the project's root), `module:Class` in a file below that root, or
    `precomputed`: the vectors of a dataset of kind `vector` as they are (needs `width`)."""
    revision: str | None = None
    """Commit of the hub repository; the one in use is recorded in the manifest."""
    dtype: Dtype = "float32"
    """Compute type of the forward pass."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """How token features become one vector; `auto`: the model's own pooled output, else the mean."""
    layer: int | None = None
    """Entry of the model's `hidden_states` that is taken (0: embeddings, -1: the last one); None: its final output."""
    tokens: TokensConfig | None = None
    """Token features of that layer instead of one pooled vector a sample; None: the pooled vector."""
    frames: PositiveInt | None = None
    """Videos through an image model: how many evenly spaced frames are encoded and averaged; None: all."""
    rate_hz: PositiveFloat | None = None
    """Series: rate that every one is resampled to; None: as they are."""
    options: dict[str, str | int | float | bool] = field(default_factory=dict, hash=False)
    """Whatever a `module:Class` wants to be told; a `transformers` model takes none."""
    batch_size: PositiveInt = 64
    """Samples a forward pass."""
    width: PositiveInt | None = None
    """Width that its vectors must have, checked when it is loaded; None: whatever the model gives."""

"""The frozen language model in the configuration: which one, its prompt, and how its forward pass runs.

In: plain values.  Out: `LLMConfig`, checked when it is built.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from pipeline.config.types import STRICT, Dtype


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LLMExecutionConfig:
    """How the LLM's forward runs; no setting changes what is computed."""

    packing: bool = True
    """Rows of any lengths lie one behind another in a forward, without padding, where the architecture allows it.
    Otherwise captions are grouped by length."""
    max_padding: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Largest share of padding among the tokens of a step where rows are not packed: captions are grouped by length
    until it holds."""
    max_forward_tokens: PositiveInt | None = None
    """Most tokens of one forward; larger steps run in several, each followed by its backward pass, so this bounds the
    memory of activations and logits. None: 16,384 on a GPU; on a CPU as many as have their logits in 32 MiB, at least
    512."""
    padding_side: Literal["right", "left"] = "right"
    """Side of the padding between rows of a forward."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""
    compile: bool = False
    """`torch.compile` the LLM's layers, or where rows are not packed all of it (needs a C++ compiler on the worker; the
    first step is slow)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LLMConfig:
    """The frozen causal language model and its prompt."""

    path: str
    """Hugging Face id or local folder."""
    revision: str | None = None
    """Commit of the hub repository."""
    dtype: Dtype = "float32"
    """Type of the frozen weights."""
    prompt: str = "describe : {soft} caption :"
    """Prompt with one `{soft}` placeholder where the soft tokens stand; the caption follows it."""
    chat: bool = False
    """The prompt is the user's turn of the tokenizer's chat template, the caption the assistant's."""
    system_prompt: str | None = None
    """System message of the chat; None: what the template does without one."""
    max_caption_tokens: PositiveInt = 48
    """Longest caption trained on or generated, in tokens (end-of-sequence included)."""
    execution: LLMExecutionConfig = LLMExecutionConfig()
    """Speed and memory."""

    @model_validator(mode="after")
    def _one_placeholder(self) -> LLMConfig:
        if self.prompt.count("{soft}") != 1:
            raise ValueError(f"prompt must contain '{{soft}}' exactly once, got {self.prompt!r}")
        if self.system_prompt is not None and not self.chat:
            raise ValueError("system_prompt needs chat=true: a plain prompt has no system message")
        return self

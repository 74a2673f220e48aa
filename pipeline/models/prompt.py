"""The constant text around the soft tokens, as token ids.

In: a tokenizer and the LLM's settings.  Out: the ids before the soft tokens and those between them and the caption.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import LLMConfig

_PLACE = "{soft}"
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for the soft tokens while a chat template is applied; no template touches it."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Token ids of both sides of the soft tokens."""

    prefix: tuple[int, ...]
    """Before them: the same in every row, hence computed once."""
    suffix: tuple[int, ...]
    """After them; the caption follows."""


def encode_prompt(tokenizer: Any, config: LLMConfig) -> Prompt:
    """The prompt of `config`, plain or as the user's turn of the tokenizer's chat template.

    Raises:
        ValueError: a chat was asked for and the tokenizer has no template, or one that drops the user's text.
    """
    if not config.chat:
        before, after = config.prompt.split(_PLACE)
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return Prompt(
            prefix=(*start, *_ids(tokenizer, before.strip())),
            suffix=tuple(_ids(tokenizer, after.strip())),
        )
    if not tokenizer.chat_template:
        raise ValueError(
            f"llm.chat=true, but the tokenizer of llm.path={config.path!r} has no chat template; "
            "set llm.chat=false, or use an instruction-tuned model"
        )
    system = [] if config.system_prompt is None else [{"role": "system", "content": config.system_prompt}]
    user = {"role": "user", "content": config.prompt.replace(_PLACE, _MARK)}
    # The template writes the start token itself.
    text: str = tokenizer.apply_chat_template([*system, user], tokenize=False, add_generation_prompt=True)
    if text.count(_MARK) != 1:
        raise ValueError(
            f"the chat template of llm.path={config.path!r} repeats or drops the user's text; set llm.chat=false"
        )
    before, after = text.split(_MARK)
    return Prompt(prefix=tuple(_ids(tokenizer, before)), suffix=tuple(_ids(tokenizer, after)))


def encode_text(tokenizer: Any, config: LLMConfig, text: str) -> list[int]:
    """A prompt without soft tokens, plain or as the user's turn of a chat."""
    if not config.chat:
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [*start, *_ids(tokenizer, text)]
    system = [] if config.system_prompt is None else [{"role": "system", "content": config.system_prompt}]
    turns = [*system, {"role": "user", "content": text}]
    return _ids(tokenizer, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids

"""The adapter artifact: what a user ships. Weights in safetensors, everything else on a JSON card.

In: a merged projector and its card.  Out: `<directory>/{adapter.safetensors,adapter.json}`, the card written last.
"""

from __future__ import annotations

import json
from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.config.artifacts import write_text_atomic
from pipeline.config.schema import EncoderConfig, LLMConfig
from pipeline.config.types import STRICT, Name, SignalKind
from pipeline.models.projector import Projector

FORMAT_VERSION = 3
WEIGHTS_FILE = "adapter.safetensors"
CARD_FILE = "adapter.json"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SignalCard:
    """What an adapter reads: enough to embed raw files exactly as its pairs were embedded."""

    kind: SignalKind
    """How the raw bytes are decoded; `vector`: ready embeddings."""
    payload_field: str = "file"
    """Column that holds the signals in tables such as the one it was made of."""
    payload: Literal["path", "bytes", "inline"] = "path"
    """What the cells of that column are."""
    storage_dtype: Literal["float32", "float16"] = "float16"
    """Embeddings are rounded to it, as shards round them."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdapterCard:
    """Where an adapter comes from and what it fits."""

    method: str
    """How it was made, such as `semi`."""
    hypernet: str
    """Kind of the hypernetwork; `none` where none had a part in it."""
    rank: int
    """Rank of the generated adapter before merging; 0 where none was generated."""
    modality: Name
    """The modality that it integrates."""
    instruction: str = ""
    """What conditioned the hypernetwork."""
    signals: SignalCard
    """What it reads."""
    encoder: EncoderConfig
    """How to load the encoder whose embeddings it reads; relative paths start at the project's root."""
    encoder_revision: str | None = None
    """Commit of the encoder's repository, where it came from one."""
    encoder_fingerprint: str
    """Changes with anything that decides an embedding: weights, preprocessing, pooling, type."""
    llm: LLMConfig
    """How to load the LLM that it speaks to, with prompt, type and length of captions."""
    llm_fingerprint: str
    """Changes with any file of the LLM: weights, settings, tokenizer."""
    input_width: int
    """E."""
    hidden_width: int
    """Width between the layers."""
    llm_width: int
    """D."""
    soft_tokens: int
    """S."""
    finetune_steps: int
    """Gradient steps made after merging: as many as selection inside the support chose, where it chooses."""
    seconds: float
    """What generating, merging and fine-tuning took."""
    support_ids: tuple[str, ...]
    """Ids of the pairs it was made of."""
    seed: int
    """Seed of the run."""
    draw: int
    """Number of the support draw."""
    config_fingerprint: str
    """Identity of the result: everything that decided it."""
    scores: dict[str, float] = field(default_factory=dict)
    """What it reached on the test rows of its data; empty where there were none."""
    license: str = "unspecified"
    """Licence of the adapter; set it before you publish."""
    format_version: int = FORMAT_VERSION
    """Version of this format."""

    @property
    def shots(self) -> int:
        """K."""
        return len(self.support_ids)


_CARD = TypeAdapter(AdapterCard)


def save_adapter(directory: Path, projector: Projector, card: AdapterCard) -> None:
    """Write an adapter; without its card it does not exist."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CARD_FILE).unlink(missing_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in projector.state_dict().items()}
    save_file(state, directory / WEIGHTS_FILE)
    write_text_atomic(directory / CARD_FILE, _CARD.dump_json(card, indent=2, ensure_ascii=False).decode() + "\n")


def load_card(directory: Path) -> AdapterCard:
    """What an adapter is, without its weights."""
    path = directory / CARD_FILE
    if not path.is_file():
        raise ValueError(f"{directory} holds no adapter ({CARD_FILE} is missing): run `python -m jobs.integrate` first")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): make the adapter again") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: adapter format {version!r}, this code reads {FORMAT_VERSION}; "
            "make the adapter again with this version"
        )
    try:
        return _CARD.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: field {where!r}: {first['msg']}: make the adapter again") from error


def load_adapter(directory: Path) -> tuple[Projector, AdapterCard]:
    """Read an adapter back."""
    card = load_card(directory)
    projector = Projector(
        card.input_width, card.llm_width, hidden_width=card.hidden_width, soft_tokens=card.soft_tokens, dropout=0.0
    )
    path = directory / WEIGHTS_FILE
    try:
        projector.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold what its card says ({reason}): make the adapter again") from error
    return projector.eval(), card


def check_fits(card: AdapterCard, *, input_width: int, llm_width: int) -> None:
    """Raise where an adapter meets another encoder's embeddings or another LLM."""
    if card.input_width != input_width:
        raise ValueError(
            f"adapter of {card.modality!r} reads embeddings of width {card.input_width} (encoder "
            f"{card.encoder.name!r}), got width {input_width}: embed with the encoder it was made for"
        )
    if card.llm_width != llm_width:
        raise ValueError(
            f"adapter of {card.modality!r} speaks to an LLM of width {card.llm_width} ({card.llm.path!r}), "
            f"got width {llm_width}: load that LLM"
        )

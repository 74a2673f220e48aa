"""The adapter artifact: what a user ships. Weights in safetensors, everything else on a JSON card.

In: a merged projector and its card.  Out: `<directory>/{adapter.safetensors,adapter.json}`, the card written last.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from pipeline.config.artifacts import write_text_atomic
from pipeline.models.projector import Projector

FORMAT_VERSION = 2
WEIGHTS_FILE = "adapter.safetensors"
CARD_FILE = "adapter.json"


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """Where an adapter comes from and what it fits."""

    method: str
    """How it was made, such as `semi`."""
    hypernet: str
    """Kind of the hypernetwork."""
    rank: int
    """Rank of the generated adapter before merging."""
    modality: str
    """The modality that it integrates."""
    encoder: dict[str, Any]
    """Id, revision and fingerprint of the encoder whose embeddings it reads."""
    llm: dict[str, Any]
    """Id, revision and prompt of the LLM that it speaks to."""
    input_width: int
    """E."""
    hidden_width: int
    """Width between the layers."""
    llm_width: int
    """D."""
    soft_tokens: int
    """S."""
    finetune_steps: int
    """Gradient steps after merging."""
    seconds: float
    """What generating, merging and fine-tuning took."""
    support_ids: tuple[str, ...]
    """Ids of the pairs it was made of."""
    seed: int
    """Seed of the run."""
    draw: int
    """Number of the support draw."""
    config_fingerprint: str
    """Fingerprint of the whole configuration."""
    license: str = "unspecified"
    """Licence of the adapter; set it before you publish."""
    format_version: int = FORMAT_VERSION
    """Version of this format."""

    @property
    def shots(self) -> int:
        """K."""
        return len(self.support_ids)


def save_adapter(directory: Path, projector: Projector, card: AdapterCard) -> None:
    """Write an adapter; without its card it does not exist."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CARD_FILE).unlink(missing_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in projector.state_dict().items()}
    save_file(state, directory / WEIGHTS_FILE)
    write_text_atomic(directory / CARD_FILE, json.dumps(dataclasses.asdict(card), indent=2) + "\n")


def load_adapter(directory: Path) -> tuple[Projector, AdapterCard]:
    """Read an adapter back."""
    path = directory / CARD_FILE
    if not path.is_file():
        raise ValueError(f"{directory} holds no adapter ({CARD_FILE} is missing): run `python -m jobs.integrate` first")
    values = json.loads(path.read_text())
    if values.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: adapter format {values.get('format_version')!r}, this code reads {FORMAT_VERSION}; "
            "make the adapter again with this version"
        )
    card = AdapterCard(**values | {"support_ids": tuple(values["support_ids"])})
    projector = Projector(
        card.input_width, card.llm_width, hidden_width=card.hidden_width, soft_tokens=card.soft_tokens, dropout=0.0
    )
    projector.load_state_dict(load_file(directory / WEIGHTS_FILE))
    return projector.eval(), card


def check_fits(card: AdapterCard, *, input_width: int, llm_width: int) -> None:
    """Raise where an adapter meets another encoder's embeddings or another LLM."""
    if card.input_width != input_width:
        raise ValueError(
            f"adapter of {card.modality!r} reads embeddings of width {card.input_width} (encoder "
            f"{card.encoder.get('name')!r}), got width {input_width}: embed with the encoder it was made for"
        )
    if card.llm_width != llm_width:
        raise ValueError(
            f"adapter of {card.modality!r} speaks to an LLM of width {card.llm_width} ({card.llm.get('path')!r}), "
            f"got width {llm_width}: load that LLM"
        )

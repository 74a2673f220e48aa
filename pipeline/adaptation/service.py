"""Captions of raw files with finished adapters: several adapters, one LLM.

In: adapter folders; then files, encoded bytes, texts or ready embeddings.
Out: a caption of each, or why there is none.

    service = CaptionService.load({"retina": "adapters/retina"})
    service.caption("retina", ["scan1.png", "scan2.png"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipeline.adaptation.artifact import AdapterCard, check_fits, load_adapter
from pipeline.adaptation.generation import GREEDY, Generation
from pipeline.config.root import project_root
from pipeline.data.decoders import DecodeError, decode
from pipeline.data.sample import Payload
from pipeline.encoders.base import Encoder
from pipeline.encoders.registry import load_encoder
from pipeline.models.frozen_llm import FrozenLLM, llm_fingerprint
from pipeline.models.projector import Projector
from pipeline.shards.build import encode_signals
from pipeline.signal import Signal

BATCH_SIZE = 32

Input = Path | Payload
"""A file; or its bytes; or a text (of kinds `text` and `molecule` the signal itself, of others a path); or a vector."""
Vectors = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """What became of one input."""

    caption: str | None
    """None: it has none."""
    problem: str | None = None
    """Why it has none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Adapter:
    card: AdapterCard
    projector: Projector


class CaptionService:
    """Adapters by name, the encoders that they need, and the one LLM that all of them speak to."""

    def __init__(self, adapters: Mapping[str, Path | str], *, root: Path | None = None, device: str = "cpu") -> None:
        """Load adapters and LLM; encoders are loaded when an input first needs them.

        `root` is where relative model paths of the cards start: this project, unless told otherwise.
        """
        if not adapters:
            raise ValueError("give at least one adapter")
        self._root, self._device = root or project_root(), device
        self._adapters = {name: _loaded(Path(path)) for name, path in adapters.items()}
        self._encoders: dict[str, Encoder] = {}
        first = next(iter(self._adapters.values())).card
        for name, adapter in self._adapters.items():
            if (adapter.card.llm, adapter.card.llm_fingerprint) != (first.llm, first.llm_fingerprint):
                raise ValueError(
                    f"adapter {name!r} speaks to {adapter.card.llm.path!r} with prompt {adapter.card.llm.prompt!r}, "
                    f"adapter {next(iter(self._adapters))!r} to {first.llm.path!r} with {first.llm.prompt!r}: adapters "
                    "of one process share the LLM with all its settings; caption in two processes"
                )
        self.llm = FrozenLLM(first.llm, self._root, device=device)
        found = llm_fingerprint(first.llm, self._root)
        if found != first.llm_fingerprint:
            raise ValueError(
                f"LLM {first.llm.path!r} has other files (fingerprint {found}) than the one that the adapters were "
                f"made for ({first.llm_fingerprint}): restore it, or integrate again"
            )
        for adapter in self._adapters.values():
            check_fits(adapter.card, input_width=adapter.card.input_width, llm_width=self.llm.width)
            adapter.projector.to(device)

    @classmethod
    def load(cls, adapters: Mapping[str, Path | str], *, root: Path | None = None, device: str = "cpu") -> Self:
        """The service of these adapter folders, by the names that they are to have."""
        return cls(adapters, root=root, device=device)

    @property
    def names(self) -> list[str]:
        """Names of the adapters."""
        return list(self._adapters)

    def card(self, name: str) -> AdapterCard:
        """The card of an adapter."""
        if name not in self._adapters:
            raise ValueError(f"no adapter {name!r}; there are {', '.join(self._adapters)}")
        return self._adapters[name].card

    def caption(self, name: str, inputs: Sequence[Input | str] | Vectors, generation: Generation = GREEDY) -> list[str]:
        """A caption of each input (a matrix `[n, E]` holds n embeddings); `ValueError` where one cannot be read."""
        captions = []
        for number, one in enumerate(self.try_caption(name, inputs, generation)):
            if one.caption is None:
                raise ValueError(f"input {number} ({str(inputs[number])[:80]}): {one.problem}")
            captions.append(one.caption)
        return captions

    def try_caption(
        self,
        name: str,
        inputs: Sequence[Input | str] | Vectors,
        generation: Generation = GREEDY,
        *,
        batch_size: int = BATCH_SIZE,
        advance: Callable[[int], None] = lambda _: None,
    ) -> list[Captioned]:
        """As `caption`, but an input that cannot be read gives its reason instead of an error."""
        card = self.card(name)
        results: list[Captioned] = []
        for number, start in enumerate(range(0, len(inputs), batch_size)):
            batch = inputs[start : start + batch_size]
            problems: dict[int, str] = {}
            if isinstance(batch, np.ndarray):
                vectors_NE = self._ready(card, batch)
            else:
                vectors_NE, problems = self._embedded(card, batch)
            results += self._captioned(self._adapters[name].projector, vectors_NE, problems, generation, number)
            advance(len(batch))
        return results

    @torch.no_grad()
    def _captioned(
        self,
        projector: Projector,
        vectors_NE: Vectors,
        problems: Mapping[int, str],
        generation: Generation,
        number: int,
    ) -> Iterator[Captioned]:
        usable = [row for row in range(len(vectors_NE)) if row not in problems]
        captions: dict[int, str] = {}
        if usable:
            embeddings_NE = torch.from_numpy(vectors_NE[usable].astype(np.float32)).to(self._device)
            with generation.seeded(number):
                texts = self.llm.generate(projector(functional.normalize(embeddings_NE, dim=-1)), generation.arguments)
            captions = dict(zip(usable, texts, strict=True))
        for row in range(len(vectors_NE)):
            yield Captioned(caption=captions.get(row), problem=problems.get(row))

    def _ready(self, card: AdapterCard, vectors_NE: Vectors) -> Vectors:
        if vectors_NE.ndim != 2:
            raise ValueError(f"embeddings must be a matrix [n, {card.input_width}], got shape {vectors_NE.shape}")
        check_fits(card, input_width=vectors_NE.shape[1], llm_width=self.llm.width)
        if not (np.isfinite(vectors_NE).all() and vectors_NE.any(axis=1).all()):
            raise ValueError("embeddings must be finite, and none of them zero")
        return vectors_NE.astype(card.signals.storage_dtype)

    def _embedded(self, card: AdapterCard, inputs: Sequence[Input | str]) -> tuple[Vectors, dict[int, str]]:
        signals: dict[int, Signal] = {}
        problems: dict[int, str] = {}
        for row, one in enumerate(inputs):
            try:
                signals[row] = decode(card.signals.kind, _payload(card, one))
            except DecodeError as error:
                problems[row] = error.reason
            except OSError as error:
                problems[row] = f"cannot be read: {error.strerror or error}"
        vectors_NE = np.zeros((len(inputs), card.input_width), dtype=card.signals.storage_dtype)
        if signals:
            encoded = encode_signals(list(signals.values()), self._encoder(card), card.signals.storage_dtype)
            vectors_NE[list(signals)] = encoded.vectors_ND
            rows = list(signals)
            problems |= {rows[position]: f"embedding {reason}" for position, reason in encoded.problems.items()}
        return vectors_NE, problems

    def _encoder(self, card: AdapterCard) -> Encoder:
        if card.encoder_fingerprint not in self._encoders:
            encoder = load_encoder(card.encoder, card.signals.kind, self._root, self._device)
            if encoder.fingerprint != card.encoder_fingerprint:
                raise ValueError(
                    f"encoder {card.encoder.path!r} is not the one that the adapter of {card.modality!r} was made for "
                    f"(fingerprint {encoder.fingerprint}, the card says {card.encoder_fingerprint}): restore its "
                    "files, or integrate again"
                )
            check_fits(card, input_width=encoder.width, llm_width=self.llm.width)
            self._encoders[card.encoder_fingerprint] = encoder
        return self._encoders[card.encoder_fingerprint]


def _loaded(directory: Path) -> _Adapter:
    projector, card = load_adapter(directory)
    return _Adapter(card=card, projector=projector)


def _payload(card: AdapterCard, one: Input | str) -> Payload:
    """Files are read; a text is the signal itself only where signals are texts."""
    if isinstance(one, Path) or (isinstance(one, str) and card.signals.kind not in ("text", "molecule", "vector")):
        return Path(one).read_bytes()
    return one

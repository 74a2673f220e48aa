"""How captions are decoded: greedily, by beams, or sampled.

In: options as a user names them.  Out: arguments of `transformers`' `generate`, and a seed for what it samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.episodes.sampler import philox

_STREAM = 41
_RESERVED = ("inputs_embeds", "input_ids", "attention_mask", "pad_token_id", "do_sample")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Options of decoding; all None: greedy."""

    temperature: float | None = None
    """Above 0; given, captions are sampled."""
    top_p: float | None = None
    """Sample among the likeliest tokens that hold this share; given, captions are sampled."""
    num_beams: int | None = None
    """Beams of a search."""
    max_tokens: int | None = None
    """Longest caption; None: what the adapter's card says."""
    seed: int = 0
    """Of what is sampled; the same inputs in the same batches then give the same captions."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `generate`, such as `repetition_penalty`, as they are."""

    def __post_init__(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}: leave it out for greedy captions")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        for name in ("num_beams", "max_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if taken := [name for name in self.other if name in _RESERVED]:
            raise ValueError(f"{taken[0]} is set by the program: remove it (temperature or top_p ask for sampling)")

    @property
    def sampled(self) -> bool:
        """Whether captions depend on the seed."""
        return self.temperature is not None or self.top_p is not None

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `generate`."""
        chosen = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "num_beams": self.num_beams,
            "max_new_tokens": self.max_tokens,
            "do_sample": True if self.sampled else None,
        }
        return {name: value for name, value in chosen.items() if value is not None} | dict(self.other)

    @contextmanager
    def seeded(self, batch: int) -> Iterator[None]:
        """What is drawn inside depends on the seed and the number of the batch, and disturbs nothing outside."""
        with torch.random.fork_rng():
            torch.manual_seed(int(philox(self.seed, _STREAM, batch).integers(2**63 - 1)))
            yield


GREEDY = Generation()

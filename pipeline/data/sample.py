"""One row of a source: a sample that can be decoded, or the reason why it cannot.

In: what `pipeline.data.sources` read from a table.  Out: `Sample` for the decoders, `BadRow` for the rejection count.
"""

from __future__ import annotations

from dataclasses import dataclass

Payload = bytes | str | list[object]
"""The encoded file's bytes, the text itself, or the cell that should hold a vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A raw signal with its captions, not yet decoded."""

    id: str
    """Unique within its source."""
    payload: Payload
    """What the decoder of the dataset's kind reads."""
    captions: tuple[str, ...]
    """One or more captions, none of them blank."""
    attributes: dict[str, str]
    """The configured attribute columns, every one present; a null cell is the empty string."""
    split: str
    """Name of the split."""
    source: str
    """Table and row it came from, for error messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot become a `Sample`."""

    id: str
    """The row's id where it could be read, else `row-<index>`."""
    source: str
    """Table and row it came from."""
    reason: str
    """What is wrong with it, in one line."""

"""Ready embeddings: a table of id, vector and text, which need no encoder.

In: a `SourceConfig` of kind `embeddings`; the table is JSON Lines where its name says so, else Parquet.
Out: one row a record; its payload is the cell with the vector, which the decoder of kind `vector` checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.places import is_uri
from pipeline.data.sample import Payload
from pipeline.data.sources.base import RowError
from pipeline.data.sources.table import TableSource

_JSON_LINES = (".jsonl", ".ndjson", ".json")


class EmbeddingsSource(TableSource):
    """Rows of a table with vectors."""

    @property
    def _format(self) -> str:
        path = self.config.path.partition("?")[0] if is_uri(self.config.path) else self.config.path
        return "jsonl" if path.lower().endswith(_JSON_LINES) else "parquet"

    def check(self) -> None:
        """As for any table; `payload` has no effect, so it must be left alone."""
        if self.config.payload != "path":
            raise ValueError(
                f"source.payload: kind 'embeddings' takes its vectors from the cells of source.payload_field, got "
                f"{self.config.payload!r}: remove it"
            )
        super().check()

    def _payload(self, cell: Any) -> Payload:
        if not isinstance(cell, list):
            raise RowError(f"field {self.config.payload_field!r} holds no list of numbers")
        return cell

    def _payload_states(self) -> Iterator[str]:
        return iter(())

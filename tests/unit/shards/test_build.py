"""Bad rows of every kind stay out of the table and come back with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from pipeline.data.sample import BadRow, Sample
from pipeline.shards.build import DecodedShard, ShardSpec, decode_shard, encode_shard, encode_texts
from pipeline.shards.format import StorageDtype
from tests.unit.shards.conftest import HashEncoder


class Rows:
    """A source of given rows."""

    def __init__(self, items: Sequence[Sample | BadRow]) -> None:
        self.items = items

    def read(self, start: int, stop: int) -> Iterator[Sample | BadRow]:
        yield from self.items[start:stop]


def sample(text: str, *, caption: str = "a caption") -> Sample:
    return Sample(
        id=f"id {text}", payload=text, captions=(caption,), attributes={"k": text}, split="train", source=f"t:{text}"
    )


def decode_all(items: Sequence[Sample | BadRow], duplicates: tuple[int, ...] = ()) -> DecodedShard:
    return decode_shard(ShardSpec(index=0, start=0, stop=len(items), duplicates=duplicates), Rows(items), "text")


def build(
    items: Sequence[Sample | BadRow], *, dtype: StorageDtype = "float16", duplicates: tuple[int, ...] = ()
) -> tuple[list[int], list[tuple[int, str]]]:
    """Source rows of the table, and (source row, reason) of the others."""
    decoded = decode_all(items, duplicates)
    texts = encode_texts(decoded, HashEncoder("text", 4), dtype)
    table, rejected = encode_shard(decoded, HashEncoder("e", 6), texts, dtype)
    kept = table["source_row"].to_pylist()
    assert sorted([*kept, *(row.source_row for row in rejected)]) == list(range(len(items)))
    return kept, [(row.source_row, row.reason) for row in rejected]


def test_every_kind_of_bad_row_is_kept_out_with_its_reason() -> None:
    items = [
        sample("good"),
        BadRow(id="b", source="t:1", reason="empty caption"),
        sample(" "),
        sample("good"),
        sample("nan"),
        sample("infinity"),
        sample("zero"),
        sample("huge"),
        sample("refuse"),
        sample("fine", caption="nan"),
        sample("better", caption="refuse"),
        sample("last"),
    ]
    kept, rejected = build(items, duplicates=(3,))
    assert kept == [0, 11]
    assert rejected == [
        (1, "empty caption"),
        (2, "text is empty"),
        (3, "duplicate id"),
        (4, "embedding holds NaN"),
        (5, "embedding is infinite"),
        (6, "embedding is zero"),
        (7, "embedding is too large for float16"),
        (8, "embedding refused by the encoder"),
        (9, "text embedding holds NaN"),
        (10, "text embedding refused by the encoder"),
    ]


def test_what_float16_cannot_hold_float32_can() -> None:
    assert build([sample("huge")], dtype="float32") == ([0], [])


def test_a_refused_batch_is_halved_until_the_bad_row_is_alone() -> None:
    decoded = decode_all([sample(f"{index}") for index in range(32)] + [sample("refuse")])
    encoder = HashEncoder("e", 6)
    texts = encode_texts(decoded, HashEncoder("text", 4), "float32")
    table, rejected = encode_shard(decoded, encoder, texts, "float32")
    assert [row.detail for row in rejected] == ["embedding refused by the encoder: too long: 99 tokens"]
    assert len(encoder.calls) <= 2 * 6 + 1
    alone = np.concatenate([HashEncoder("e", 6).encode([row.signal]) for row in decoded.rows[:32]])
    stored = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 6)
    assert np.array_equal(stored, alone)


def test_a_shard_without_a_good_row_is_an_empty_table() -> None:
    decoded = decode_all([sample(" ")])
    texts = encode_texts(decoded, HashEncoder("text", 4), "float16")
    table, rejected = encode_shard(decoded, HashEncoder("e", 6), texts, "float16")
    assert (table.num_rows, len(rejected)) == (0, 1)
    assert table.schema.field("embedding").type.list_size == 6


def test_an_encoder_of_another_width_is_a_bug_and_not_a_bad_row() -> None:
    class Wide(HashEncoder):
        def encode(self, signals: Sequence[object]) -> np.ndarray:  # type: ignore[override, type-arg]
            return np.ones((len(signals), self.width + 1), dtype=np.float32)

    decoded = decode_all([sample("x")])
    with pytest.raises(TypeError, match=r"gave an array of shape \(1, 7\), expected \(1, 6\)"):
        encode_shard(decoded, Wide("e", 6), encode_texts(decoded, HashEncoder("t", 4), "float16"), "float16")


def test_a_text_that_is_its_own_caption_is_encoded_once() -> None:
    encoder = HashEncoder("text", 4)
    own = decode_all([sample("a"), sample("b", caption="b")])
    encode_shard(own, encoder, encode_texts(own, encoder, "float16"), "float16")
    assert encoder.calls == [2, 2]  # the first row's caption is another text
    own = decode_all([sample("a", caption="a"), sample("b", caption="b")])
    table, _ = encode_shard(own, encoder, encode_texts(own, encoder, "float16"), "float16")
    assert encoder.calls == [2, 2, 2]
    assert table["embedding"].to_pylist() == table["text_embedding"].to_pylist()
    encode_shard(own, HashEncoder("other", 4), encode_texts(own, encoder, "float16"), "float16")
    assert encoder.calls == [2, 2, 2, 2]


def test_a_source_that_loses_rows_is_noticed() -> None:
    with pytest.raises(ValueError, match="zip"):
        decode_shard(ShardSpec(index=0, start=0, stop=3), Rows([sample("x")]), "text")

"""Rows of different lengths as few batches with little padding.

In: how many tokens each row feeds to the LLM.  Out: row indices by batch; each batch is one forward.

A batch is padded to its longest row. One batch for all rows wastes a fifth or more of the arithmetic on padding where
captions differ in length, one batch for each length wastes it on small batches: in between lie the fewest batches whose
padding stays below a bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

Bucket = list[int]
"""Row indices of one forward."""

_MOST_TOKENS = 16384
_CPU_TOKENS = 512
_CPU_LOGITS = 2**23
"""32 MiB of float32. Larger forwards leave the processor's caches; each forward reads and repacks all weights, which
counts below 512 tokens (docs/meta_training.md)."""


def forward_tokens(device_type: str, vocabulary: int) -> int:
    """Tokens of a forward above which it should be cut, for a device (`torch.device.type`) and size of the logits."""
    return max(_CPU_TOKENS, min(_CPU_LOGITS // vocabulary, _MOST_TOKENS)) if device_type == "cpu" else _MOST_TOKENS


def plan_buckets(lengths: Sequence[int], *, max_padding: float, max_tokens: int) -> list[Bucket]:
    """Batches of rows with at most `max_padding` of all fed tokens as padding, longest rows first.

    Starts from one batch for each length and merges the two neighbours whose union pads least, as long as the bound
    holds. A batch with more than `max_tokens` tokens is cut (a single row never is). A pure function of the lengths.
    """
    rows: dict[int, Bucket] = defaultdict(list)
    for row, length in enumerate(lengths):
        rows[length].append(row)
    groups = sorted(rows.items(), reverse=True)
    # Padding may be this many tokens: p / (real + p) <= max_padding.
    budget = sum(lengths) * max_padding / (1.0 - max_padding) if max_padding < 1.0 else float("inf")
    while len(groups) > 1:
        # What a merge of neighbours costs: the rows of the shorter one as they are now, brought to the longer one's
        # length. Their own padding is paid for already.
        costs = [(longer - shorter) * len(members) for (longer, _), (shorter, members) in pairwise(groups)]
        cheapest = min(range(len(costs)), key=costs.__getitem__)
        if costs[cheapest] > budget:
            break
        budget -= costs[cheapest]
        (longer, first), (_, second) = groups[cheapest : cheapest + 2]
        groups[cheapest : cheapest + 2] = [(longer, first + second)]
    return [
        members[start : start + per_forward]
        for length, members in groups
        for per_forward in (max(1, max_tokens // length),)
        for start in range(0, len(members), per_forward)
    ]


def plan_packed(lengths: Sequence[int], *, max_tokens: int) -> list[Bucket]:
    """Batches of rows that lie one behind another, longest rows first: as few as `max_tokens` allows, alike in tokens.

    A single row is never cut. A pure function of the lengths.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    # Even shares: what one full forward leaves over would run alone.
    parts = max(1, -(-sum(lengths) // max_tokens))
    share = -(-sum(lengths) // parts)
    plan: list[Bucket] = []
    filled = 0
    for row in order:
        if not plan or filled >= share or filled + lengths[row] > max_tokens:
            plan.append([])
            filled = 0
        plan[-1].append(row)
        filled += lengths[row]
    return plan


def split_to(buckets: Sequence[Bucket], count: int) -> list[Bucket]:
    """The same rows in at least `count` batches, the fullest ones halved; as many as there are rows at most."""
    result = list(buckets)
    while len(result) < count:
        fullest = max(range(len(result)), key=lambda index: len(result[index]))
        rows = result[fullest]
        if len(rows) < 2:
            break
        result[fullest : fullest + 1] = [rows[: (len(rows) + 1) // 2], rows[(len(rows) + 1) // 2 :]]
    return result


def padding_share(lengths: Sequence[int], buckets: Sequence[Bucket]) -> float:
    """Share of the fed tokens that is padding."""
    fed = sum(max(lengths[row] for row in rows) * len(rows) for rows in buckets)
    return 1.0 - sum(lengths) / fed if fed else 0.0

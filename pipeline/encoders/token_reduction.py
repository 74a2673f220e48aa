"""Many tokens to few: by the mean of neighbours, by sampling, or by merging what is alike.

In: the tokens of one sample, padding left out, and how many may remain.  Out: that many, or all where there are fewer.

Every result is a function of the sample's own tokens; nothing is drawn, and ties go to the earlier token.

Shape suffixes: T tokens, R tokens that remain, A and B the even and odd ones, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.config.schema import TokensConfig

# Rows of a similarity matrix that are in memory at once: a video has tens of thousands of tokens.
_BLOCK = 1024


def reduce_tokens(tokens_TD: Tensor, config: TokensConfig) -> Tensor:
    """At most `config.count` float32 tokens `[R, D]` of one sample."""
    if len(tokens_TD) <= config.count:
        return tokens_TD
    if config.reduce == "average":
        return average_tokens(tokens_TD, config.count)
    if config.reduce == "sample":
        return sample_tokens(tokens_TD, config.count)
    return merge_tokens(tokens_TD, config.count)[0]


def average_tokens(tokens_TD: Tensor, count: int) -> Tensor:
    """Means of `count` adjacent spans of equal length; where T is no multiple, neighbours share their border token."""
    return torch.nn.functional.adaptive_avg_pool1d(tokens_TD.T[None], count)[0].T


def sample_tokens(tokens_TD: Tensor, count: int) -> Tensor:
    """`count` evenly spaced tokens, the first and the last among them."""
    return tokens_TD[torch.from_numpy(np.linspace(0, len(tokens_TD) - 1, count).round().astype(np.int64))]


def merge_tokens(tokens_TD: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Bipartite soft matching (ToMe, Bolya et al., ICLR 2023, section 3) until `count` tokens `[R, D]` are left.

    Returns them, each the mean of the tokens that it stands for, in the order of the first of those; and how many those
    are, `[R]`. Similarity is the cosine of the tokens themselves: the keys that the paper compares stay in the model.
    """
    sizes_T = tokens_TD.new_ones(len(tokens_TD))
    while len(tokens_TD) > count:
        pairs = min(len(tokens_TD) - count, len(tokens_TD) // 2)
        tokens_TD, sizes_T = _merge_pairs(tokens_TD, sizes_T, pairs)
    return tokens_TD, sizes_T


def _merge_pairs(tokens_TD: Tensor, sizes_T: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """One matching: of the even tokens, the `pairs` that resemble an odd one most join it."""
    units_TD = torch.nn.functional.normalize(tokens_TD, dim=1)
    # The first of equal maxima is taken, here and by the stable sort.
    best = [(block_D @ units_TD[1::2].T).max(dim=1) for block_D in torch.split(units_TD[0::2], _BLOCK)]
    similarity_A, partner_A = (torch.cat(parts) for parts in zip(*best, strict=True))
    joining = similarity_A.sort(descending=True, stable=True).indices[:pairs]
    places_T = torch.arange(len(tokens_TD))
    group_T = places_T.clone()
    group_T[2 * joining] = 2 * partner_A[joining] + 1
    first_T = torch.full_like(places_T, len(places_T)).scatter_reduce_(0, group_T, places_T, "amin")
    kept_R = first_T.argsort(stable=True)[: len(places_T) - pairs]
    sizes_R = torch.zeros_like(sizes_T).index_add_(0, group_T, sizes_T)[kept_R]
    sums_RD = torch.zeros_like(tokens_TD).index_add_(0, group_T, tokens_TD * sizes_T[:, None])[kept_R]
    return sums_RD / sizes_R[:, None], sizes_R

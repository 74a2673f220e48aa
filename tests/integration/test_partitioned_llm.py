"""A frozen LLM spread over the workers: the numbers of the whole one, an equal share of its elements on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config.schema import LLMConfig
from pipeline.config.types import Dtype
from pipeline.models.frozen_llm import FrozenLLM
from tests.processes import gloo_process, run_processes
from tests.tiny_lm import save_tiny_lm

CAPTIONS = ("a red circle on the left", "a small blue square", "green", "a large red circle on the right .")


class _BackwardInForward(torch.autograd.Function):
    """Both passes at once: what the LLM keeps for its backward pass does not outlive the bucket."""

    @staticmethod
    def forward(ctx: Any, part_BSD: Tensor, llm: FrozenLLM, captions: list[str]) -> Tensor:
        with torch.enable_grad():
            inner_BSD = part_BSD.detach().requires_grad_()
            loss = llm.caption_losses(inner_BSD, captions).sum()
            (gradient_BSD,) = torch.autograd.grad(loss, inner_BSD)
        ctx.save_for_backward(gradient_BSD)
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        return outer[0] * ctx.saved_tensors[0], None, None


def _losses_and_gradient(llm: FrozenLLM, soft_BSD: Tensor, buckets: int, nested: bool) -> tuple[list[float], Tensor]:
    """Forward and backward of each bucket in turn, gradients asked for the soft tokens alone."""
    losses, gradients = [], []
    for rows in torch.arange(len(CAPTIONS)).chunk(buckets):
        part, captions = soft_BSD[rows].requires_grad_(), [CAPTIONS[row] for row in rows.tolist()]
        loss = _BackwardInForward.apply(part, llm, captions) if nested else llm.caption_losses(part, captions).sum()
        gradients += torch.autograd.grad(loss, part)
        losses.append(float(loss.detach()))
    return losses, torch.cat(gradients)


def _compare(rank: int, port: int, world: int, folder: str, dtype: Dtype, kept_whole: int) -> None:
    from pipeline.runtime.partitioned_llm import PartitionedLLM

    # Nothing after the soft tokens: the embeddings are read for no token at all.
    config = LLMConfig(path=folder, max_caption_tokens=12, dtype=dtype, prompt="describe : {soft}")
    with gloo_process(rank, world, port):
        whole = FrozenLLM(config, Path(folder))
        split = PartitionedLLM(config, Path(folder), kept_whole=kept_whole)
        assert split.width == whole.width
        assert split.agree_on_forwards(rank + 3) == world + 2
        elements = sum(weight.numel() for weight in whole.model.parameters())
        shares = [weight.ds_tensor for weight in split.model.parameters()]
        assert all(share.dtype == getattr(torch, dtype) for share in shares)
        assert sum(share.numel() for share in shares) <= 1.02 * elements / world
        rounding = 1e-5 if dtype == "float32" else 1e-2
        for step, buckets in enumerate((1, 2, 2, 4, 2, 1, 1, 1)):
            generator = torch.Generator().manual_seed(9 * step + rank)
            soft_BSD = torch.randn(len(CAPTIONS), 2, whole.width, generator=generator)
            if step % 3 == 2:  # a forward pass without a backward pass in between
                with torch.no_grad():
                    split.caption_losses(soft_BSD[:1], CAPTIONS[:1])
            wanted, got = (_losses_and_gradient(llm, soft_BSD, buckets, nested=step % 2 == 1) for llm in (whole, split))
            assert got[0] == pytest.approx(wanted[0], abs=rounding)
            torch.testing.assert_close(got[1], wanted[1], atol=rounding, rtol=rounding)
            # Its embeddings are tied and read again at once; everything else that is not kept whole is freed.
            held = {name for name, weight in split.model.named_parameters() if weight.numel()}
            small = {name for name, weight in whole.model.named_parameters() if weight.numel() <= kept_whole}
            assert held <= small | {"model.embed_tokens.weight"}
        assert not any(weight.requires_grad or weight.grad is not None for weight in split.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("world", "dtype", "kept_whole"), [(2, "float32", 0), (2, "bfloat16", 16), (1, "float32", 0)])
def test_losses_and_gradients_are_those_of_the_whole_llm(
    tmp_path: Path, world: int, dtype: Dtype, kept_whole: int
) -> None:
    save_tiny_lm(tmp_path)
    run_processes(_compare, world, world, str(tmp_path), dtype, kept_whole)

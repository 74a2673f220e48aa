"""What a GPU computes is what the CPU computes: isometries, width maps, episodes, `Semi` and its gradients.

In: a device.  Out: nothing, or an `AssertionError` that says what differs.

    python -m tests.gpu.agreement --device cuda

runs every check without pytest; torch, transformers and pydantic are all that it needs. `tests/gpu/test_agreement.py`
gives the same checks to pytest, which needs neither the project's plugins nor its other tests there:

    python -m pytest -c /dev/null --rootdir . --confcutdir tests/gpu tests/gpu
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.adaptation.finetune import Start, finetune_together
from pipeline.adaptation.support import SupportSet
from pipeline.config.schema import (
    AdaptedLayers,
    EpisodeConfig,
    FinetuneConfig,
    HypernetConfig,
    HypernetKind,
    LLMConfig,
    WidthMapKind,
)
from pipeline.config.types import Dtype
from pipeline.episodes.augmentation import augment, sample_augmentation
from pipeline.episodes.batch import EpisodeBatch, SupportBatch
from pipeline.episodes.collate import EpisodeBuilder
from pipeline.episodes.sampler import EpisodeSampler
from pipeline.episodes.width import fit_width_map
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.hypernet import build_hypernet
from pipeline.models.packed_attention import Runs, packed_rows_attention
from pipeline.models.packed_attention_gpu import gpu_rows_attention
from pipeline.models.projector import Projector
from pipeline.models.row_layout import RowLayout
from pipeline.models.semi import Semi
from tests.tiny_lm import save_tiny_lm

Rows = npt.NDArray[np.int64]
ISOMETRIES = ("none", "haar", "bank:2", "householder:4", "signed_permutation", "scale:0.5", "warp:0.5")
WIDTH, LLM_WIDTH, SOFT_TOKENS = 32, 48, 2
ATOL = 1e-4
RUNS = ((2, 3), (1, 9))
Attention = Callable[..., Tensor]


def _unit(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def check_isometry(kind: str, device: torch.device) -> None:
    """The same map at the width of real encoders."""
    x = _unit(132, 768)
    with torch.no_grad():
        there = sample_augmentation(kind, 768, 2**40 + 7, device=device)(x.to(device))
        at_once = augment(torch.stack([x, x]).to(device), kind, [2**40 + 7, 3])
    assert there.device.type == device.type and there.dtype == torch.float32
    torch.testing.assert_close(there.cpu(), sample_augmentation(kind, 768, 2**40 + 7)(x), atol=ATOL, rtol=0)
    torch.testing.assert_close(at_once.cpu(), augment(torch.stack([x, x]), kind, [2**40 + 7, 3]), atol=ATOL, rtol=0)


def check_width_map(kind: WidthMapKind, width: int, device: torch.device) -> None:
    """The same map; principal directions are free up to their signs, which the products of mapped rows do not show."""
    x = _unit(20, width)
    maps = [fit_width_map(rows, WIDTH, kind=kind, seed=3) for rows in (x, x.to(device))]
    here, there = (width_map(rows).cpu() for width_map, rows in zip(maps, (x, x.to(device)), strict=True))
    if kind == "orthonormal" and width > WIDTH:
        here, there = here @ here.T, there @ there.T
    torch.testing.assert_close(there, here, atol=ATOL, rtol=0)


class _Source:
    """Random rows of a dataset."""

    def __init__(self, width: int) -> None:
        self._x, self._t, self.instruction_W = _unit(60, width), _unit(60, WIDTH, seed=1), _unit(WIDTH, seed=2)

    def __len__(self) -> int:
        return 60

    def embeddings(self, rows: Rows) -> Tensor:
        """Rows as an encoder would give them."""
        return self._x[rows]

    def text_embeddings(self, rows: Rows) -> Tensor:
        """Rows of texts."""
        return self._t[rows]

    def captions(self, rows: Rows) -> list[tuple[str, ...]]:
        """No captions: the checks have their own labels."""
        return [("",) for _ in rows]


def check_episodes(kind: WidthMapKind, device: torch.device) -> None:
    """Episodes of several widths and of distorted text, built there and here."""
    config = EpisodeConfig(support_shots=(10,), queries=5, text_fraction=0.5, text_scale=0.3, text_noise=0.5)
    sampler = EpisodeSampler(sizes=[60, 60], modalities=["a", "t"], config=config, seed=0, texts={"t"})
    sources = [_Source(WIDTH - 9), _Source(WIDTH)]
    builder = EpisodeBuilder(sources, sampler, config=config, common_width=WIDTH, width_map=kind, texts=[1])
    here, there = builder.build(5, range(6)), builder.build(5, range(6), device)
    for mine, theirs in zip(_tensors(here), _tensors(there), strict=True):
        assert theirs.device.type == device.type
        torch.testing.assert_close(theirs.cpu(), mine, atol=ATOL, rtol=0)


def _tensors(batch: EpisodeBatch) -> list[Tensor]:
    support = batch.support
    return [support.embeddings_NKE, support.texts_NKW, support.instructions_NW, batch.queries_NBE]


def _batch(width: int, device: torch.device) -> EpisodeBatch:
    support = SupportBatch(
        embeddings_NKE=_unit(3, 20, width, seed=4).to(device),
        texts_NKW=_unit(3, 20, WIDTH, seed=5).to(device),
        instructions_NW=_unit(3, WIDTH, seed=6).to(device),
    )
    return EpisodeBatch(
        support=support, queries_NBE=_unit(3, 6, width, seed=7).to(device), captions=tuple(("",) * 6 for _ in range(3))
    )


def _semi(kind: HypernetKind, adapted_layers: AdaptedLayers, width_map: WidthMapKind = "orthonormal") -> Semi:
    """On the CPU; corrections that start at zero are moved away from it."""
    torch.manual_seed(0)
    projector = Projector(WIDTH, LLM_WIDTH, soft_tokens=SOFT_TOKENS, dropout=0.1, width_map=width_map)
    config = HypernetConfig(kind=kind, width=WIDTH, rank=8, alpha=8.0, heads=4, layers=2, adapted_layers=adapted_layers)
    hypernet = build_hypernet(config, projector)
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return Semi(projector, hypernet)


def _language_model() -> nn.Module:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=64, hidden_size=LLM_WIDTH, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    model: nn.Module = LlamaForCausalLM(config).eval().requires_grad_(False)
    return model


def _loss_and_soft_tokens(semi: Semi, language_model: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cross-entropy of random captions behind the soft tokens, `[]`, and the soft tokens `[N, B, S, D]`."""
    width = WIDTH if semi.hypernet.common_width else WIDTH + 9
    soft_NBSD = semi(_batch(width, device))
    labels_BT = torch.randint(0, 64, (18, 7), generator=torch.Generator().manual_seed(2)).to(device)
    embed = language_model.get_input_embeddings()
    inputs = torch.cat([soft_NBSD.flatten(0, 1), embed(labels_BT[:, :-1])], dim=1)
    logits = language_model(inputs_embeds=inputs, use_cache=False).logits[:, SOFT_TOKENS - 1 :]
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels_BT.flatten()), soft_NBSD


def check_semi(kind: HypernetKind, adapted_layers: AdaptedLayers, device: torch.device) -> None:
    """Soft tokens, loss, and the loss's gradient in every weight of the hypernetwork."""
    semi, language_model, cpu = _semi(kind, adapted_layers), _language_model(), torch.device("cpu")
    copies = copy.deepcopy(semi).to(device), copy.deepcopy(language_model).to(device)
    loss_here, soft_here = _loss_and_soft_tokens(semi, language_model, cpu)
    loss_there, soft_there = _loss_and_soft_tokens(*copies, device)
    torch.testing.assert_close(soft_there.cpu(), soft_here, atol=ATOL, rtol=ATOL)
    torch.testing.assert_close(loss_there.cpu(), loss_here, atol=ATOL, rtol=0)
    loss_here.backward()
    loss_there.backward()
    others = dict(copies[0].hypernet.named_parameters())
    for name, parameter in semi.hypernet.named_parameters():
        mine, theirs = parameter.grad, others[name].grad
        assert mine is not None and theirs is not None, name
        difference, size = float((theirs.cpu() - mine).abs().max()), float(mine.abs().max())
        assert difference <= 1e-3 * size + 1e-7, f"gradient of {name} differs by {difference}; its size is {size}"


def check_integration(kind: HypernetKind, width_map: WidthMapKind, width: int, device: torch.device) -> None:
    """Projectors merged for an encoder of another width compute the same."""
    semi = _semi(kind, "all", width_map)
    merged = []
    for model, place in ((semi, torch.device("cpu")), (copy.deepcopy(semi).to(device), device)):
        batch = _batch(width, place)
        support = batch.support
        one = SupportBatch(
            embeddings_NKE=support.embeddings_NKE[:1],
            texts_NKW=support.texts_NKW[:1],
            instructions_NW=support.instructions_NW[:1],
        )
        with torch.no_grad():
            merged.append(model.integrate(one, chunk=16, width_seed=1).eval()(batch.queries_NBE[0]).cpu())
    torch.testing.assert_close(merged[1], merged[0], atol=ATOL, rtol=ATOL)


def _rows_and_gradients(attention: Attention, states: list[Tensor]) -> list[Tensor]:
    """Output and gradients of three packed rows' attention, float32 on the CPU."""
    *rows, front_keys, front_values = states
    leaves = [x.detach().requires_grad_() for x in rows]
    output_NHW = attention(*leaves, (front_keys, front_values), RUNS, 0.3)
    weights = torch.linspace(-1, 1, output_NHW.numel()).view(output_NHW.shape).to(output_NHW)
    results = [output_NHW, *torch.autograd.grad((output_NHW * weights).sum(), leaves)]
    return [x.detach().float().cpu() for x in results]


def check_packed_attention(dtype: torch.dtype, device: torch.device) -> None:
    """Packed rows attend there as they do here: in half precision too, where another kernel runs."""
    generator = torch.Generator().manual_seed(8)
    tokens = sum(rows * length for rows, length in RUNS)
    shapes = [(4, tokens), (2, tokens), (2, tokens), (2, 7), (2, 7)]
    states = [torch.randn(1, *shape, 16, generator=generator).to(dtype) for shape in shapes]
    exact = _rows_and_gradients(packed_rows_attention, [x.float() for x in states])
    there = _rows_and_gradients(_attention_of(device), [x.to(device) for x in states])
    tolerance = ATOL if dtype == torch.float32 else 2e-2
    for mine, theirs in zip(exact, there, strict=True):
        torch.testing.assert_close(theirs, mine, atol=tolerance * float(mine.abs().max()), rtol=0)


def _attention_of(device: torch.device) -> Attention:
    if device.type == "cpu":
        return packed_rows_attention

    def attend(q: Tensor, k: Tensor, v: Tensor, prefix: tuple[Tensor, Tensor], runs: Runs, scale: float) -> Tensor:
        lengths = [length for rows, length in runs for _ in range(rows)]
        return gpu_rows_attention(q, k, v, prefix, RowLayout.of(lengths, prefix[0].shape[2], device), scale)

    return attend


def check_llm(dtype: Dtype, device: torch.device) -> None:
    """Caption losses and their gradient in the soft tokens, rows packed."""
    captions = ["a red circle", "a small blue square on the right .", "a", "the large green circle on the left ."]
    results = []
    with TemporaryDirectory() as folder:
        save_tiny_lm(Path(folder))
        for place, kind in ((torch.device("cpu"), "float32"), (device, dtype)):
            config = LLMConfig(path=folder, max_caption_tokens=12, dtype=kind)  # type: ignore[arg-type]
            llm = FrozenLLM(config, Path(folder), device=place)
            soft = _unit(4, 2, llm.width, seed=9).to(place).requires_grad_()
            losses = llm.caption_losses(soft, captions)
            losses.sum().backward()
            assert llm.packs_rows and soft.grad is not None
            results.append((losses.detach().cpu(), soft.grad.cpu()))
    for mine, theirs in zip(*results, strict=True):
        error = float((theirs - mine).norm() / mine.norm())
        assert error < (ATOL if dtype == "float32" else 0.1), f"off by {error} of its norm"


def check_fine_tuning(device: torch.device) -> None:
    """Projectors trained in lockstep have the same weights."""
    captions = ("a red circle", "a small blue square on the right .", "a", "the large green circle on the left .")
    config = FinetuneConfig(steps=4, batch_size=3, learning_rate=1e-2, selection="holdout")
    results = []
    with TemporaryDirectory() as folder:
        save_tiny_lm(Path(folder))
        for place in (torch.device("cpu"), device):
            llm = FrozenLLM(LLMConfig(path=folder, max_caption_tokens=12), Path(folder), device=place)
            starts = []
            for seed in range(3):
                torch.manual_seed(seed)
                support = SupportSet(
                    modality="radar",
                    encoder="radar-a",
                    ids=tuple("abcd"),
                    embeddings_KE=_unit(4, WIDTH, seed=seed),
                    texts_KW=_unit(4, WIDTH, seed=seed + 3),
                    captions=captions,
                    instruction_W=_unit(WIDTH, seed=7),
                )
                projector = Projector(WIDTH, llm.width, soft_tokens=2, dropout=0.0)
                starts.append(Start(projector=projector.to(place), support=support, seed=seed))
            results.append(finetune_together(starts, llm, config))
    for mine, theirs in zip(*results, strict=True):
        assert mine.steps == theirs.steps
        for name, value in mine.projector.state_dict().items():
            torch.testing.assert_close(theirs.projector.state_dict()[name].cpu(), value, atol=1e-3, rtol=1e-3)


def checks() -> Iterator[tuple[str, Callable[[torch.device], None]]]:
    """Every check with its name."""
    kinds, maps, layers = get_args(HypernetKind), get_args(WidthMapKind), get_args(AdaptedLayers)
    for isometry in ISOMETRIES:
        yield f"isometry {isometry}", partial(check_isometry, isometry)
    for width_map, width in product(maps, (WIDTH - 9, WIDTH + 9)):
        yield f"width map {width_map} of {width}", partial(check_width_map, width_map, width)
    for width_map in maps:
        yield f"episodes {width_map}", partial(check_episodes, width_map)
    for kind, adapted_layers in product(kinds, layers):
        yield f"semi {kind} {adapted_layers}", partial(check_semi, kind, adapted_layers)
    for dtype in ("float32", "bfloat16", "float16"):
        yield f"packed attention {dtype}", partial(check_packed_attention, getattr(torch, dtype))
    for llm_dtype in get_args(Dtype):
        yield f"language model {llm_dtype}", partial(check_llm, llm_dtype)
    yield "fine-tuning in lockstep", check_fine_tuning
    for kind, (width_map, width) in product(kinds, (("orthonormal", WIDTH - 9), ("pad_select", WIDTH + 9))):
        yield f"integration {kind} {width_map} of {width}", partial(check_integration, kind, width_map, width)


def main() -> None:
    """Run all checks on one device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    for name, check in checks():
        check(device)
        print(f"ok: {name}", flush=True)


if __name__ == "__main__":
    main()

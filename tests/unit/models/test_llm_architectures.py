"""Any causal LLM: cached prefix, length buckets, padding on either side and recomputed layers change no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.config.schema import LLMConfig, LLMExecutionConfig
from pipeline.models.frozen_llm import FrozenLLM
from tests.tiny_lm import as_on_a_gpu, save_tiny_lm

CAPTIONS = ("a red circle", "a small blue square on the right .", "a red circle on the left", "green")
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {**SMALL, "num_key_value_heads": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 1},  # both heads of queries share one of keys
    "qwen3": {**GROUPED, "head_dim": 8},
    "mistral": {**GROUPED, "head_dim": 8, "sliding_window": 4},
    "gemma3_text": {**GROUPED, "head_dim": 8, "sliding_window": 4},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 64},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}
PLAIN_KEYS_AND_VALUES = {"llama", "qwen3", "gpt2", "opt", "bloom"}
PACKED = PLAIN_KEYS_AND_VALUES - {"bloom"}  # it has an attention of its own


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp(request.param)
    save_tiny_lm(directory)
    config = AutoConfig.for_model(
        request.param, vocab_size=20, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3,
        **ARCHITECTURES[request.param],
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def load(directory: Path, **execution: Any) -> FrozenLLM:
    config = LLMConfig(path=str(directory), max_caption_tokens=12, execution=LLMExecutionConfig(**execution))
    return FrozenLLM(config, directory)


def soft_tokens() -> torch.Tensor:
    return torch.randn(len(CAPTIONS), 3, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()


def one_by_one(llm: FrozenLLM, soft_BSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and their gradients, a caption at a time over the whole sequence."""
    embed = llm.model.get_input_embeddings()
    losses, gradients = [], []
    for row, caption in enumerate(CAPTIONS):
        soft_SD = soft_BSD[row].detach().requires_grad_()
        labels = torch.tensor(llm.caption_ids([caption])[0])
        parts = [embed(llm._prefix_P), soft_SD, embed(llm._suffix_U), embed(labels)]
        logits = llm.model(inputs_embeds=torch.cat(parts).unsqueeze(0), use_cache=False).logits[0]
        loss = functional.cross_entropy(logits[-len(labels) - 1 : -1], labels)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, soft_SD)[0])
    return torch.stack(losses), torch.stack(gradients)


def assert_scored_as_one_caption_at_a_time(llm: FrozenLLM) -> None:
    soft = soft_tokens()
    expected, gradient = one_by_one(llm, soft)
    losses = llm.caption_losses(soft, CAPTIONS)
    losses.sum().backward()
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    assert soft.grad is not None
    torch.testing.assert_close(soft.grad, gradient, atol=2e-6, rtol=1e-4)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize(
    "execution",
    [
        {"packing": True},
        {"packing": True, "max_forward_tokens": 16},
        *(
            {"packing": False, "padding_side": side, "max_padding": share}
            for side in ("right", "left")
            for share in (0.05, 0.9)
        ),
    ],
    ids=str,
)
def test_every_architecture_scores_as_one_caption_at_a_time(model_dir: Path, execution: dict[str, Any]) -> None:
    assert_scored_as_one_caption_at_a_time(load(model_dir, **execution))


def test_every_architecture_that_packs_does_so_the_way_of_a_gpu(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a CPU can go too."""
    calls = as_on_a_gpu(monkeypatch)
    llm = load(model_dir, packing=True)
    assert_scored_as_one_caption_at_a_time(llm)
    assert llm.packs_rows == any(model_dir.name.startswith(name) for name in PACKED) and (calls or not llm.packs_rows)


def test_prefix_is_computed_once_where_keys_and_values_are_all_there_is(model_dir: Path) -> None:
    llm = load(model_dir)
    llm.caption_losses(soft_tokens(), CAPTIONS)
    cached = llm._cached_prefix is not None
    assert cached == any(model_dir.name.startswith(name) for name in PLAIN_KEYS_AND_VALUES)
    prefix = len(llm._prefix_P)
    assert llm.fed_tokens(4, soft_tokens=3) == (0 if cached else prefix) + 3 + len(llm._suffix_U) + 3


def test_rows_are_packed_where_attention_is_all_that_tells_them_apart(model_dir: Path) -> None:
    llm = load(model_dir, packing=True)
    packed = any(model_dir.name.startswith(name) for name in PACKED)
    assert llm.packs_rows == packed
    counted: list[int] = []
    llm.model.register_forward_pre_hook(lambda *_, **__: counted.append(1))
    llm.caption_losses(soft_tokens(), CAPTIONS)
    assert (len(counted) == 1) == packed, "one forward for four lengths"


@pytest.mark.parametrize("packing", [False, True])
def test_recomputed_layers_give_the_same_gradient(model_dir: Path, packing: bool) -> None:
    gradients = []
    for recompute in (False, True):
        soft = soft_tokens()
        llm = load(model_dir, activation_checkpointing=recompute, packing=packing)
        llm.caption_losses(soft, CAPTIONS).sum().backward()
        gradients.append(soft.grad)
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-6)

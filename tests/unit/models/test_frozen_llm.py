"""The LLM path: only captions are scored, padding changes nothing, gradients reach the soft tokens alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.schema import LLMConfig
from pipeline.encoders.folder import write_checksums
from pipeline.models.frozen_llm import IGNORED, FrozenLLM
from tests.tiny_lm import save_tiny_lm

SHORT, LONG = "a red circle", "a small blue square on the right ."


def _soft(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 3, 16, generator=torch.Generator().manual_seed(seed))


def test_loss_is_that_of_a_plain_forward_over_the_whole_sequence(llm: FrozenLLM) -> None:
    soft = _soft(1)
    embed = llm.model.get_input_embeddings()
    prefix = [1, *llm.tokenizer("describe :", add_special_tokens=False)["input_ids"]]
    suffix = llm.tokenizer("caption :", add_special_tokens=False)["input_ids"]
    caption = [*llm.tokenizer(LONG, add_special_tokens=False)["input_ids"], 2]
    ids = [embed(torch.tensor([part])) for part in (prefix, suffix, caption)]
    inputs = torch.cat([ids[0], soft, ids[1], ids[2]], dim=1)
    labels = torch.tensor([[IGNORED] * (len(prefix) + 3 + len(suffix)) + caption])
    expected = llm.model(inputs_embeds=inputs, labels=labels).loss
    torch.testing.assert_close(llm.loss(soft, [LONG]), expected, atol=1e-6, rtol=1e-6)


def test_padding_is_neither_scored_nor_seen(llm: FrozenLLM) -> None:
    soft = _soft(2)
    together = llm.caption_losses(soft, [SHORT, LONG])
    alone = torch.cat([llm.caption_losses(soft[:1], [SHORT]), llm.caption_losses(soft[1:], [LONG])])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    labels = llm.caption_labels([SHORT, LONG])
    assert (labels[0] == 2).sum() == 1 and labels[0, 3] == 2, "one end-of-sequence token, right behind the caption"
    assert (labels[0, 4:] == IGNORED).all() and labels.shape[1] > 4
    tokens = (labels != IGNORED).sum(dim=1)
    torch.testing.assert_close(llm.loss(soft, [SHORT, LONG]), (together * tokens).sum() / tokens.sum())


def test_gradient_reaches_soft_tokens_and_no_weight(llm: FrozenLLM) -> None:
    soft = _soft(2).requires_grad_()
    llm.loss(soft, [SHORT, LONG]).backward()
    assert soft.grad is not None and (soft.grad.abs().amax(dim=-1) > 0).all()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in llm.parameters())


def test_generation_depends_on_its_own_row_only(llm: FrozenLLM) -> None:
    soft = _soft(3)
    together = llm.generate(soft)
    assert together == [llm.generate(row.unsqueeze(0))[0] for row in soft]
    assert all(len(llm.tokenizer(text)["input_ids"]) <= 12 for text in together)


def test_greedy_generation_follows_the_logits_of_the_loss_path(llm: FrozenLLM) -> None:
    """The first generated word is the one that the loss path finds most likely at the first caption position."""
    soft = _soft(1, seed=3)
    words = [word for word in llm.tokenizer.get_vocab() if not word.startswith("<")]
    best = min(words, key=lambda word: float(llm._token_losses(soft, llm.caption_labels([word]))[0, 0]))
    first = llm.generate(soft)[0].split()
    assert not first or first[0] == best


def test_caption_longer_than_the_limit_is_cut_and_still_ended(llm: FrozenLLM) -> None:
    labels = llm.caption_labels([" ".join([LONG] * 5)])
    assert labels.shape == (1, 12) and labels[0, -1] == 2


def test_llm_without_pad_token_works(tmp_path: Path, llm: FrozenLLM) -> None:
    save_tiny_lm(tmp_path, pad_token=None)
    bare = FrozenLLM(LLMConfig(path=str(tmp_path), max_caption_tokens=12), tmp_path)
    soft = _soft(2)
    torch.testing.assert_close(bare.caption_losses(soft, [SHORT, LONG]), llm.caption_losses(soft, [SHORT, LONG]))


def test_a_flipped_byte_of_the_weights_is_refused(tmp_path: Path) -> None:
    save_tiny_lm(tmp_path / "lm")
    write_checksums(tmp_path / "lm")
    config = LLMConfig(path="lm")
    assert FrozenLLM(config, tmp_path).width == 16
    weights = tmp_path / "lm" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"lm/model\.safetensors has changed \(SHA256SUMS disagrees\)"):
        FrozenLLM(config, tmp_path)


def test_a_path_that_is_neither_folder_nor_id_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'models/no/such': no folder .*/models/no/such; give a folder, or a Hugging"):
        FrozenLLM(LLMConfig(path="models/no/such"), tmp_path)


def test_a_hub_id_is_loaded_at_its_revision(tmp_path: Path, tiny_lm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((hub_id, revision))
        assert "*.safetensors" in allow_patterns
        return str(tiny_lm_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert FrozenLLM(LLMConfig(path="owner/name", revision="abc"), tmp_path).width == 16
    assert asked == [("owner/name", "abc")]


def test_prompt_needs_exactly_one_placeholder() -> None:
    with pytest.raises(ValueError, match=r"prompt must contain '\{soft\}' exactly once"):
        LLMConfig(path="x", prompt="describe")

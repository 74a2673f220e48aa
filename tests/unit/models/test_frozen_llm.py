"""The LLM path: only captions are scored, padding changes nothing, gradients reach the soft tokens alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.schema import LLMConfig, LLMExecutionConfig
from pipeline.encoders.folder import write_checksums
from pipeline.models.frozen_llm import FrozenLLM
from pipeline.models.llm_layers import IGNORED
from tests.tiny_lm import as_on_a_gpu, save_tiny_lm

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
    ids = llm.caption_ids([SHORT, LONG])
    assert ids[0].count(2) == 1 and ids[0][3:] == [2], "one end-of-sequence token, right behind the caption"
    tokens = torch.tensor([len(row) for row in ids])
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
    best = min(words, key=lambda word: float(_first_token_loss(llm, soft, word)))
    first = llm.generate(soft)[0].split()
    assert not first or first[0] == best


def _first_token_loss(llm: FrozenLLM, soft: torch.Tensor, word: str) -> torch.Tensor:
    (ids,) = llm.caption_ids([word])
    return llm.bucket_losses(soft, [ids[:1]])[0]


def test_caption_longer_than_the_limit_is_cut_and_still_ended(llm: FrozenLLM) -> None:
    (ids,) = llm.caption_ids([" ".join([LONG] * 5)])
    assert len(ids) == 12 and ids[-1] == 2


@pytest.mark.parametrize("packing", [True, False])
def test_a_step_runs_in_few_forwards_of_little_padding(tiny_lm_dir: Path, packing: bool) -> None:
    config = LLMConfig(path=str(tiny_lm_dir), execution=LLMExecutionConfig(packing=packing))
    llm = FrozenLLM(config, tiny_lm_dir)
    assert llm.packs_rows == packing
    captions = [SHORT, LONG] * 6
    calls = []
    llm.model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs.get("inputs_embeds")), with_kwargs=True
    )
    soft = _soft(12).requires_grad_()
    losses = llm.caption_losses(soft, captions)
    shapes = [tuple(inputs.shape[:2]) for inputs in calls if inputs is not None]
    long, short = (llm.fed_tokens(len(ids), soft_tokens=3) for ids in llm.caption_ids([LONG, SHORT]))
    expected = [(1, 6 * (long + short))] if packing else [(6, long), (6, short)]
    assert shapes == expected, "two lengths, no padding; the prefix is not fed again"
    losses.mean().backward()
    assert len([inputs for inputs in calls if inputs is not None]) == len(expected), "nothing is computed twice"
    alone = _soft(12).requires_grad_()
    torch.cat([llm.caption_losses(alone[row : row + 1], [captions[row]]) for row in range(12)]).mean().backward()
    torch.testing.assert_close(soft.grad, alone.grad, atol=1e-7, rtol=1e-4)


def test_weights_of_a_weighted_sum_reach_the_gradient(llm: FrozenLLM) -> None:
    soft, weights = _soft(2).requires_grad_(), torch.tensor([0.25, -3.0])
    (llm.caption_losses(soft, [SHORT, LONG]) * weights).sum().backward()
    for row, caption in enumerate([SHORT, LONG]):
        alone = _soft(2)[row : row + 1].requires_grad_()
        llm.caption_losses(alone, [caption]).sum().backward()
        assert soft.grad is not None and alone.grad is not None
        torch.testing.assert_close(soft.grad[row], weights[row] * alone.grad[0], atol=1e-6, rtol=1e-4)


def test_large_steps_run_in_parts_of_bounded_size(tiny_lm_dir: Path, llm: FrozenLLM) -> None:
    config = LLMConfig(path=str(tiny_lm_dir), execution=LLMExecutionConfig(max_forward_tokens=30))
    small = FrozenLLM(config, tiny_lm_dir)
    captions = [LONG] * 7
    parts = small.buckets([len(ids) for ids in small.caption_ids(captions)], soft_tokens=3)
    assert len(parts) > 1 and sorted(row for rows in parts for row in rows) == list(range(7))
    torch.testing.assert_close(small.caption_losses(_soft(7), captions), llm.caption_losses(_soft(7), captions))


def test_workers_can_agree_on_the_number_of_forwards(llm: FrozenLLM) -> None:
    soft, captions = _soft(4), [SHORT, SHORT, LONG, LONG]
    own = llm.caption_losses(soft, captions)
    llm.agree_on_forwards = lambda count: max(count, 3)
    assert len(llm.buckets([len(ids) for ids in llm.caption_ids(captions)], soft_tokens=3)) == 3
    torch.testing.assert_close(llm.caption_losses(soft, captions), own)


def test_a_forward_reads_the_embeddings_as_often_whatever_the_captions_lengths(llm: FrozenLLM) -> None:
    # Under ZeRO-3 each call gathers them from all workers, whose captions differ: another number waits for ever.
    llm.caption_losses(_soft(1), [SHORT])
    calls: list[int] = []
    llm.model.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for captions in ([SHORT, SHORT, SHORT], [SHORT, LONG, SHORT + " on the left"]):
        calls.clear()
        llm.caption_losses(_soft(3), captions)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


CHAT = (
    "{{ bos_token }}{% for message in messages %}<unk> {{ message.role }} : {{ message.content }} </s>{% endfor %}"
    "{% if add_generation_prompt %}caption :{% endif %}"
)


def _chat_lm(directory: Path, template: str | None, **changes: object) -> FrozenLLM:
    save_tiny_lm(directory)
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    config = LLMConfig(path=str(directory), chat=True, prompt="describe {soft} a", max_caption_tokens=12, **changes)  # type: ignore[arg-type]
    return FrozenLLM(config, directory)


def test_soft_tokens_stand_in_the_users_turn_of_a_chat(tmp_path: Path) -> None:
    llm = _chat_lm(tmp_path, CHAT)
    assert llm.tokenizer.decode(llm._prefix_P) == "<s> <unk> <unk> : describe", "started once, by the template"
    assert llm.tokenizer.decode(llm._suffix_U) == "a </s> caption :"
    assert torch.isfinite(llm.caption_losses(_soft(2), [SHORT, LONG])).all()
    with_system = _chat_lm(tmp_path, CHAT, system_prompt="the left")
    assert llm.tokenizer.decode(with_system._prefix_P) == "<s> <unk> <unk> : the left </s> <unk> <unk> : describe"


def test_chat_without_a_usable_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"llm\.chat=true, but the tokenizer .* has no chat template"):
        _chat_lm(tmp_path, None)
    with pytest.raises(ValueError, match="repeats or drops the user's text"):
        _chat_lm(tmp_path, "{{ messages[0].role }}")
    with pytest.raises(ValueError, match="system_prompt needs chat=true"):
        LLMConfig(path="x", system_prompt="be brief")


def test_layers_that_cannot_be_recomputed_are_refused(tiny_lm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.models.llm_layers.GradientCheckpointingLayer", torch.nn.Conv3d)
    execution = LLMExecutionConfig(activation_checkpointing=True)
    with pytest.raises(ValueError, match=r"activation_checkpointing=true: the architecture of llm\.path=.* has no"):
        FrozenLLM(LLMConfig(path=str(tiny_lm_dir), execution=execution), tiny_lm_dir)


def test_without_a_compiler_nothing_can_be_compiled(tiny_lm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "my-compiler")
    config = LLMConfig(path=str(tiny_lm_dir), execution=LLMExecutionConfig(compile=True))
    with pytest.raises(ValueError, match=r"compile=true: torch\.compile needs one of my-compiler, .*install one"):
        FrozenLLM(config, tiny_lm_dir)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}, {"packing": False}], ids=str)
def test_compiled_forward_gives_the_same_losses_and_gradients(
    tiny_lm_dir: Path, llm: FrozenLLM, options: dict[str, bool]
) -> None:
    execution = LLMExecutionConfig(compile=True, **options)
    compiled = FrozenLLM(LLMConfig(path=str(tiny_lm_dir), max_caption_tokens=12, execution=execution), tiny_lm_dir)
    results = []
    for model in (llm, compiled):
        soft = _soft(4).requires_grad_()
        losses = model.caption_losses(soft, [SHORT, LONG, SHORT, LONG])
        losses.mean().backward()
        results.append((losses.detach(), soft.grad))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [False, True])
def test_one_compiled_layer_serves_all_layers_and_lengths(
    tmp_path: Path, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpu:
        as_on_a_gpu(monkeypatch)
    programs = []
    for layers in (2, 5):
        torch._dynamo.reset()
        folder = tmp_path / str(layers)
        save_tiny_lm(folder, layers=layers)
        execution = LLMExecutionConfig(compile=True)
        model = FrozenLLM(LLMConfig(path=str(folder), max_caption_tokens=12, execution=execution), folder)
        counted = torch._dynamo.utils.counters["stats"]
        before, breaks = counted["unique_graphs"], torch._dynamo.utils.counters["graph_break"].total()
        after = []
        for captions in ([SHORT, LONG], [SHORT, SHORT, LONG], [LONG] * 7):
            model.caption_losses(_soft(len(captions)).requires_grad_(), captions)
            after.append(counted["unique_graphs"] - before)
        assert after[0] == after[-1], "other lengths are compiled anew"
        programs.append(after[0])
        if gpu:
            assert torch._dynamo.utils.counters["graph_break"].total() == breaks, "a layer is compiled in pieces"
    assert programs[0] == programs[1] > 0


def test_a_bfloat16_llm_reads_float32_soft_tokens(tiny_lm_dir: Path, llm: FrozenLLM) -> None:
    half = FrozenLLM(LLMConfig(path=str(tiny_lm_dir), max_caption_tokens=12, dtype="bfloat16"), tiny_lm_dir)
    soft = _soft(2).requires_grad_()
    losses = half.caption_losses(soft, [SHORT, LONG])
    losses.mean().backward()
    assert losses.dtype == torch.float32 and soft.grad is not None and soft.grad.dtype == torch.float32
    assert half.model.dtype == torch.bfloat16
    torch.testing.assert_close(losses, llm.caption_losses(soft, [SHORT, LONG]), atol=0.05, rtol=0.02)


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

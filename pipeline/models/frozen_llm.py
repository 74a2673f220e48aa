"""A frozen causal LLM that reads soft tokens and is scored on captions.

In: soft tokens `[B, S, D]` and captions.  Out: the mean cross-entropy of each caption's tokens, or generated captions.

Every row is `prefix | soft tokens | suffix | caption | end`. The prefix is the same in every row of every step: its
keys and values are computed once. Rows share a forward: one behind another without padding (`packing`), or, where an
architecture does not allow it, rows of similar length side by side, so that little padding is computed; it is masked
and never scored (METHOD section 3: the reference trains on padding and passes no attention mask). Captions end in the
last columns of a row: logits are computed there only.

Nothing of the LLM is trained, so the gradient that its backward pass owes to the rest of the model is one tensor of the
soft tokens' shape. Each forward is followed by its backward pass at once: memory is that of one forward, however many
rows a step has.

Shape suffixes: B rows, S soft tokens, D LLM width, P prefix, U suffix, T caption tokens,
L columns of a forward, V vocabulary; b rows of one forward, K tokens before a caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from pipeline.config.schema import LLMConfig
from pipeline.encoders.folder import files_fingerprint, model_folder
from pipeline.models.buckets import forward_tokens, plan_buckets, plan_packed, split_to
from pipeline.models.immediate_backward import losses_with_gradient
from pipeline.models.llm_layers import (
    IGNORED,
    check_compiler,
    compiled_where_packed,
    recomputed,
    token_losses,
    wrap_layers,
)
from pipeline.models.packing import pack, packs
from pipeline.models.prefix_cache import prefix_cache
from pipeline.models.prompt import encode_prompt


class FrozenLLM(nn.Module):
    """An `AutoModelForCausalLM` without gradients in its weights."""

    agree_on_forwards: Callable[[int], int]
    """Number of forwards of a step, given this worker's own: a partitioned LLM needs the same on every worker."""
    _token_losses: Callable[[Tensor, Tensor], Tensor] = staticmethod(token_losses)

    def __init__(self, config: LLMConfig, root: Path, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        folder = model_folder(config.path, revision=config.revision, root=root)
        self.config = config
        transformers_logging.disable_progress_bar()  # its "Loading weights" bar would cut through ours
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if self.tokenizer.eos_token_id is None:
            raise ValueError(f"llm.path={config.path!r}: its tokenizer has no end-of-sequence token")
        prompt = encode_prompt(self.tokenizer, config)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, config.dtype), use_safetensors=True, trust_remote_code=False
        )
        self.model: Any = model.to(device).eval().requires_grad_(False)
        self.agree_on_forwards = int
        self._prefix_P = torch.tensor(prompt.prefix, dtype=torch.long, device=device)
        self._suffix_U = torch.tensor(prompt.suffix, dtype=torch.long, device=device)
        self._suffix = tuple(prompt.suffix)
        self._forward = self.model
        if config.execution.compile:
            check_compiler()
            self._forward = torch.compile(self.model, dynamic=True)
            self._token_losses = torch.compile(token_losses, dynamic=True)
            wrap_layers(self.model, compiled_where_packed)
        if config.execution.activation_checkpointing and not wrap_layers(self.model, recomputed):
            raise ValueError(
                f"llm.execution.activation_checkpointing=true: the architecture of llm.path={config.path!r} has no "
                "layers that transformers can checkpoint; set it to false"
            )

    @property
    def width(self) -> int:
        """Hidden width D."""
        return int(self.model.get_input_embeddings().embedding_dim)  # weights may be partitioned

    @property
    def pad_id(self) -> int:
        """Token that fills padding; masked everywhere, so any token serves where none is defined."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def caption_ids(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of captions, each with its end-of-sequence token."""
        limit = self.config.max_caption_tokens - 1
        encoded = self.tokenizer(list(captions), add_special_tokens=False, truncation=True, max_length=limit)
        return [[*ids, self.tokenizer.eos_token_id] for ids in encoded["input_ids"]]

    def knows(self, caption: str) -> bool:
        """Whether any token of a caption is one of the vocabulary; a tokenizer of bytes knows every caption."""
        ids = self.tokenizer(caption, add_special_tokens=False)["input_ids"]
        return any(token != self.tokenizer.unk_token_id for token in ids)

    def loss(self, soft_BSD: Tensor, captions: Sequence[str]) -> Tensor:
        """Mean cross-entropy over the captions' tokens (end-of-sequence included), a scalar."""
        tokens_B = torch.tensor([len(ids) for ids in self.caption_ids(captions)], device=soft_BSD.device)
        return (self.caption_losses(soft_BSD, captions) * tokens_B).sum() / tokens_B.sum()

    def caption_losses(self, soft_BSD: Tensor, captions: Sequence[str]) -> Tensor:
        """Mean cross-entropy of each caption, `[B]`; differentiable in the soft tokens."""
        return self.token_losses(soft_BSD, self.caption_ids(captions))

    def token_losses(self, soft_BSD: Tensor, ids: list[list[int]]) -> Tensor:
        """`caption_losses` of captions that are token ids already, for who reads the same ones in every step."""
        buckets = self.buckets([len(row) for row in ids], soft_tokens=soft_BSD.shape[1])
        if torch.is_grad_enabled() and soft_BSD.requires_grad:
            return losses_with_gradient(
                soft_BSD, buckets, lambda part_bSD, rows: self.bucket_losses(part_bSD, [ids[row] for row in rows])
            )
        losses_B = soft_BSD.new_empty(len(ids), dtype=torch.float32)
        for rows in buckets:
            losses_B[rows] = self.bucket_losses(soft_BSD[rows], [ids[row] for row in rows])
        return losses_B

    def buckets(self, caption_lengths: Sequence[int], *, soft_tokens: int) -> list[list[int]]:
        """Rows of each forward, for captions of these many tokens."""
        execution = self.config.execution
        fed = [self.fed_tokens(length, soft_tokens=soft_tokens) for length in caption_lengths]
        max_tokens = execution.max_forward_tokens or forward_tokens(
            self._prefix_P.device.type, self.model.config.get_text_config().vocab_size
        )
        if self.packs_rows:
            plan = plan_packed(fed, max_tokens=max_tokens)
        else:
            plan = plan_buckets(fed, max_padding=execution.max_padding, max_tokens=max_tokens)
        return split_to(plan, self.agree_on_forwards(len(plan)))

    def fed_tokens(self, caption_length: int, *, soft_tokens: int) -> int:
        """Tokens of a row that every step computes: the last caption token is only predicted, never read."""
        prefix = 0 if self._cached_prefix is not None else len(self._prefix_P)
        return prefix + soft_tokens + len(self._suffix_U) + caption_length - 1

    def bucket_losses(self, soft_BSD: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
        """Mean cross-entropy of each caption, `[B]`, by one forward."""
        return self._packed_losses(soft_BSD, ids) if self.packs_rows else self._padded_losses(soft_BSD, ids)

    def _packed_losses(self, soft_BSD: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
        """By one forward over all rows one behind another."""
        embed = self.model.get_input_embeddings()
        packed = pack(soft_BSD, self._suffix, ids, embed, prefix=self._cached_prefix)
        with record_function("llm forward"):
            logits_1TV = self.model(**packed.inputs, use_cache=False).logits
            return packed.means(self._token_losses(logits_1TV[0], packed.labels_T))

    def _padded_losses(self, soft_BSD: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
        """By one forward padded to the longest."""
        rows = [torch.tensor(row) for row in ids]
        labels_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED).to(soft_BSD.device)
        padding_B = (labels_BT == IGNORED).sum(dim=1)
        inputs = self._inputs(soft_BSD, labels_BT, padded=len({len(row) for row in rows}) > 1)
        if self._left:
            labels_BT = _roll_right(labels_BT, padding_B)
        # Indices, not a number: they copy the columns, where a slice would make the output layer a batched product.
        length = inputs["inputs_embeds"].shape[1]
        kept_T = torch.arange(length - labels_BT.shape[1], length, device=labels_BT.device)
        with record_function("llm forward"):
            logits_BTV = self._forward(**inputs, logits_to_keep=kept_T, use_cache=False).logits
            flat = self._token_losses(logits_BTV.flatten(0, 1), labels_BT.flatten())
        return flat.view(labels_BT.shape).sum(dim=1) / (labels_BT.shape[1] - padding_B)

    @property
    def _left(self) -> bool:
        return self.config.execution.padding_side == "left"

    def _inputs(self, soft_BSD: Tensor, labels_BT: Tensor, *, padded: bool) -> dict[str, Any]:
        """Arguments of the LLM's forward: embeddings, and where rows differ in length what tells padding."""
        cache = self._cached_prefix
        prompt = self._prompt_embeddings(soft_BSD, prefix=cache is None)
        # The last caption token is only predicted, never read: it needs no column of its own.
        read_BT = labels_BT[:, :-1].masked_fill(labels_BT[:, :-1] == IGNORED, self.pad_id)
        embeddings_BLD = torch.cat([prompt, self.model.get_input_embeddings()(read_BT)], dim=1)
        inputs: dict[str, Any] = {"inputs_embeds": embeddings_BLD}
        if cache is not None:
            inputs["past_key_values"] = cache
        if not padded:
            return inputs
        scored_BT = labels_BT[:, 1:] != IGNORED
        mask_BL = torch.cat([scored_BT.new_ones(prompt.shape[:2]), scored_BT], dim=1)
        if self._left:
            padding_B = (~mask_BL).sum(dim=1)
            inputs["inputs_embeds"], mask_BL = _roll_right(embeddings_BLD, padding_B), _roll_right(mask_BL, padding_B)
        if cache is not None:
            mask_BL = torch.cat([mask_BL.new_ones(len(mask_BL), len(self._prefix_P)), mask_BL], dim=1)
        inputs["attention_mask"] = mask_BL.long()
        if self._left and self._takes_positions:
            # The model counts columns; padding on the left is no position.
            positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
            inputs["position_ids"] = positions[:, -embeddings_BLD.shape[1] :]
        return inputs

    @property
    def _takes_positions(self) -> bool:
        return "position_ids" in signature(self.model.forward).parameters

    @cached_property
    def packs_rows(self) -> bool:
        """Whether rows of any lengths share a forward without padding."""
        execution = self.config.execution
        return execution.packing and self._plain_cache is not None and packs(self.model, self._cached_prefix)

    @property
    def _cached_prefix(self) -> Any:
        """Keys and values of the prefix; None where there is no prefix, or the model has more state."""
        return self._plain_cache if len(self._prefix_P) else None

    @cached_property
    def _plain_cache(self) -> Any:
        """Made at the first forward, so that loading stays loading; of any token where there is no prefix."""
        return prefix_cache(self.model, self._prefix_P if len(self._prefix_P) else self._suffix_U.new_zeros(1))

    def _prompt_embeddings(self, soft_BSD: Tensor, *, prefix: bool = True) -> Tensor:
        embed = self.model.get_input_embeddings()
        rows = soft_BSD.shape[0]
        # In the LLM's own type: a frozen bfloat16 LLM reads float32 soft tokens.
        suffix = embed(self._suffix_U).expand(rows, -1, -1)
        parts = [soft_BSD.to(suffix.dtype), suffix]
        if prefix:
            parts.insert(0, embed(self._prefix_P).expand(rows, -1, -1))
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def generate(self, soft_BSD: Tensor, options: Mapping[str, Any] | None = None) -> list[str]:
        """Captions of soft tokens: greedy ones, or as these arguments of `transformers`' `generate` say."""
        prompt = self._prompt_embeddings(soft_BSD)
        ids = self.model.generate(
            inputs_embeds=prompt,
            attention_mask=prompt.new_ones(prompt.shape[:2], dtype=torch.long),
            pad_token_id=self.pad_id,
            **{"max_new_tokens": self.config.max_caption_tokens, "do_sample": False} | dict(options or {}),
        )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    @torch.no_grad()
    def generate_from_text(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Greedy captions after prompts of text alone (`pipeline.models.prompt.encode_text`), padded on the left."""
        device = self._prefix_P.device
        rows = [torch.tensor(row, device=device) for row in prompts]
        ids_BL = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id, padding_side="left")
        lengths_B1 = torch.tensor([[len(row)] for row in prompts], device=device)
        mask_BL = torch.arange(ids_BL.shape[1], device=device) >= ids_BL.shape[1] - lengths_B1
        generated = self.model.generate(
            input_ids=ids_BL,
            attention_mask=mask_BL.long(),
            max_new_tokens=self.config.max_caption_tokens,
            do_sample=False,
            pad_token_id=self.pad_id,
        )
        texts = self.tokenizer.batch_decode(generated[:, ids_BL.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    @property
    def context_tokens(self) -> int | None:
        """Longest row that the LLM reads, prompt and caption together; None where its configuration names no limit."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return None if limit is None else int(limit)


@lru_cache(maxsize=4)
def llm_fingerprint(config: LLMConfig, root: Path) -> str:
    """Changes with any file of the LLM; a process reads them once."""
    return files_fingerprint(model_folder(config.path, revision=config.revision, root=root))


def _roll_right(x_BL: Tensor, by_B: Tensor) -> Tensor:
    """Rotate each row's second axis by its own number of places; `[B, L, ...]`."""
    columns_BL = (torch.arange(x_BL.shape[1], device=x_BL.device) - by_B.unsqueeze(1)) % x_BL.shape[1]
    return x_BL[torch.arange(len(x_BL), device=x_BL.device).unsqueeze(1), columns_BL]

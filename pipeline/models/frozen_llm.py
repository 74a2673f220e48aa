"""A frozen causal LLM that reads soft tokens and is scored on captions.

In: soft tokens `[B, S, D]` and captions.  Out: the mean cross-entropy of the captions' tokens, or generated captions.

Every row is `prefix | soft tokens | suffix | caption | end | padding`. Prompt and soft tokens have the same length in
every row, so captions end up in the last columns: logits are computed there only, and padding stands on the right,
masked and never scored (METHOD section 3: the reference trains on padding and passes no attention mask).

Shape suffixes: B rows, S soft tokens, D LLM width, T caption tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from pipeline.config.schema import LLMConfig
from pipeline.encoders.folder import model_folder

IGNORED = -100
"""Label of positions that are never scored."""


class FrozenLLM(nn.Module):
    """An `AutoModelForCausalLM` without gradients in its weights."""

    def __init__(self, config: LLMConfig, root: Path, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        folder = model_folder(config.path, revision=config.revision, root=root)
        self.config = config
        transformers_logging.disable_progress_bar()  # its "Loading weights" bar would cut through ours
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, config.dtype), use_safetensors=True, trust_remote_code=False
        )
        self.model: Any = model.to(device).eval().requires_grad_(False)
        if self.tokenizer.eos_token_id is None:
            raise ValueError(f"llm.path={config.path!r}: its tokenizer has no end-of-sequence token")
        before, after = config.prompt.split("{soft}")
        self._prefix = self._prompt_ids(before.strip(), start=True)
        self._suffix = self._prompt_ids(after.strip(), start=False)

    def _prompt_ids(self, text: str, *, start: bool) -> Tensor:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        if start and self.tokenizer.bos_token_id is not None:
            ids = [self.tokenizer.bos_token_id, *ids]
        return torch.tensor(ids, dtype=torch.long, device=self.model.device)

    @property
    def width(self) -> int:
        """Hidden width D."""
        return int(self.model.get_input_embeddings().embedding_dim)  # weights may be partitioned

    @property
    def pad_id(self) -> int:
        """Token that fills padding; masked everywhere, so any token serves where none is defined."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def caption_labels(self, captions: Sequence[str]) -> Tensor:
        """Token ids of captions with their end-of-sequence token, `[B, T]`; `IGNORED` in the padding."""
        limit = self.config.max_caption_tokens - 1
        encoded = self.tokenizer(list(captions), add_special_tokens=False, truncation=True, max_length=limit)
        rows = [torch.tensor([*ids, self.tokenizer.eos_token_id]) for ids in encoded["input_ids"]]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED).to(self.model.device)

    def loss(self, soft_BSD: Tensor, captions: Sequence[str]) -> Tensor:
        """Mean cross-entropy over the captions' tokens (end-of-sequence included), a scalar."""
        labels_BT = self.caption_labels(captions)
        total = self._token_losses(soft_BSD, labels_BT).sum()
        return total / (labels_BT != IGNORED).sum()

    def caption_losses(self, soft_BSD: Tensor, captions: Sequence[str]) -> Tensor:
        """Mean cross-entropy of each caption, `[B]`."""
        labels_BT = self.caption_labels(captions)
        return self._token_losses(soft_BSD, labels_BT).sum(dim=1) / (labels_BT != IGNORED).sum(dim=1)

    def _token_losses(self, soft_BSD: Tensor, labels_BT: Tensor) -> Tensor:
        prompt = self._prompt_embeddings(soft_BSD)
        scored_BT = labels_BT != IGNORED
        # The last caption token is only predicted, never read: it needs no column of its own.
        read_ids = labels_BT[:, :-1].masked_fill(~scored_BT[:, :-1], self.pad_id)
        embeddings = torch.cat([prompt, self.model.get_input_embeddings()(read_ids)], dim=1)
        mask = torch.cat([scored_BT.new_ones(prompt.shape[:2]), scored_BT[:, 1:]], dim=1)
        logits_BTV = self.model(
            inputs_embeds=embeddings,
            attention_mask=mask.long(),
            logits_to_keep=labels_BT.shape[1],
            use_cache=False,
        ).logits
        flat = functional.cross_entropy(
            logits_BTV.float().flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return flat.view(labels_BT.shape)

    def _prompt_embeddings(self, soft_BSD: Tensor) -> Tensor:
        embed = self.model.get_input_embeddings()
        soft = soft_BSD.to(embed.weight.dtype)
        sides = [embed(ids).expand(soft.shape[0], -1, -1) for ids in (self._prefix, self._suffix)]
        return torch.cat([sides[0], soft, sides[1]], dim=1)

    @torch.no_grad()
    def generate(self, soft_BSD: Tensor) -> list[str]:
        """Greedy captions of soft tokens."""
        prompt = self._prompt_embeddings(soft_BSD)
        ids = self.model.generate(
            inputs_embeds=prompt,
            attention_mask=prompt.new_ones(prompt.shape[:2], dtype=torch.long),
            max_new_tokens=self.config.max_caption_tokens,
            do_sample=False,
            pad_token_id=self.pad_id,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

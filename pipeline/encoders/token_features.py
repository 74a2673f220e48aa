"""Token features of a `transformers` model, behind the `TokenEncoder` protocol.

In: the folder of a model that was saved by `save_pretrained`, and decoded signals.
Out: float32 tokens `[t, width]` a signal, those that `pooling: mean` would average, reduced to a chosen number.

Padding never counts: neither what a model masks, nor Whisper's silence behind a clip or what stands before a short
series. What else a model reads unmasked (SigLIP's texts, AST's window) counts as it does in the mean, and so do special
tokens (CLS, SEP, registers). Where a signal takes several rows (frames, windows), their tokens follow one another.

Shape suffixes: N rows, T tokens, P patches, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.schema import EncoderConfig, SignalKind, TokensConfig
from pipeline.encoders.base import TokenEncoder
from pipeline.encoders.huggingface import FrozenModel, load_frozen
from pipeline.encoders.pooling import token_forward
from pipeline.encoders.preprocess import Batch
from pipeline.encoders.token_reduction import reduce_tokens
from pipeline.signal import Signal

_SERIES_MASKS = ("past_observed_mask", "observed_mask")
_ROUNDING = 1e-6


def load_token_encoder(config: EncoderConfig, kind: SignalKind, root: Path, device: str = "cpu") -> TokenEncoder:
    """Load a frozen encoder whose `tokens` is set; what cannot work fails here, as one `ValueError`."""
    return load_frozen(HuggingFaceTokenEncoder, config, kind, root, device)


class HuggingFaceTokenEncoder(FrozenModel):
    """A frozen model that gives the tokens of one of its layers."""

    def __init__(self, config: EncoderConfig, kind: SignalKind, folder: Path, device: str = "cpu") -> None:
        super().__init__(config, kind, folder, device)
        if config.tokens is None:
            raise ValueError("tokens is not set: say how many tokens a sample has at most")
        self._tokens: TokensConfig = config.tokens
        example = self._preprocess.example()
        with torch.inference_mode():
            inputs = self._moved(self._preprocess([example]).inputs)
            self._forward = token_forward(self._model, kind, inputs, layer=config.layer)
        (tokens,) = self._encode_batch([example])
        self._check_output(tokens)
        self.width = tokens.shape[1]

    def encode_tokens(self, signals: Sequence[Signal]) -> list[npt.NDArray[np.float32]]:
        """Tokens `[t, width]` of each signal, in the order of `signals`; `t` is at most `tokens.count`."""
        tokens: list[npt.NDArray[np.float32]] = [np.empty((0, self.width), dtype=np.float32)] * len(signals)
        for indices in self._micro_batches(signals):
            encoded = self._encode_batch([signals[index] for index in indices])
            for index, tokens_TD in zip(indices, encoded, strict=True):
                tokens[index] = tokens_TD
        return tokens

    @torch.inference_mode()
    def _encode_batch(self, signals: Sequence[Signal]) -> list[npt.NDArray[np.float32]]:
        batch = self._preprocess(signals)
        hidden_NTD, mask_NT = self._forward(self._moved(batch.inputs))
        there_NT = (mask_NT > 0).cpu() & _signal_tokens(self._model.config, batch, hidden_NTD.shape[1])
        # Reduced on the CPU: a GPU adds in no fixed order, and the same signal must give the same bytes.
        rows = [hidden_TD[there_T] for hidden_TD, there_T in zip(hidden_NTD.cpu(), there_NT, strict=True)]
        if batch.sample_of_row is not None:
            rows = [torch.cat(parts) for parts in _of_each_sample(rows, batch.sample_of_row)]
        # A copy, lest a few tokens keep the memory of the whole batch.
        return [reduce_tokens(tokens_TD, self._tokens).numpy().copy() for tokens_TD in rows]


def _of_each_sample(rows: Sequence[Tensor], sample_of_row: Tensor) -> list[list[Tensor]]:
    samples: list[list[Tensor]] = [[] for _ in range(int(sample_of_row[-1]) + 1)]
    for row, sample in zip(rows, sample_of_row.tolist(), strict=True):
        samples[sample].append(row)
    return samples


def _signal_tokens(config: Any, batch: Batch, tokens: int) -> Tensor:
    """Which tokens `[N, T]` hold some signal, in windows that models see whole and cannot mask."""
    if batch.heard is not None:
        heard_N = (batch.heard * tokens - _ROUNDING).ceil().clamp(min=1)
        return torch.arange(tokens) < heard_N[:, None]
    mask_name = next((name for name in _SERIES_MASKS if name in batch.inputs), None)
    if mask_name is not None and hasattr(config, "patch_length"):
        return _observed_patches(config, batch.inputs, mask_name, tokens)
    return torch.ones(1, tokens, dtype=torch.bool)


def _observed_patches(config: Any, inputs: Mapping[str, Tensor], mask_name: str, tokens: int) -> Tensor:
    """Patches of a series of which a step was observed, channel by channel, each behind the channel's CLS token."""
    observed_NTC = inputs[mask_name] > 0
    length, stride = config.patch_length, config.patch_stride
    # The last patch ends with the series; what is left over at its start is in none.
    start = (observed_NTC.shape[1] - length) % stride
    patches_NCP = observed_NTC[:, start:].unfold(1, length, stride).any(dim=-1).transpose(1, 2)
    special = tokens // patches_NCP.shape[1] - patches_NCP.shape[2]
    if special not in (0, 1) or tokens % patches_NCP.shape[1]:
        return torch.ones(1, tokens, dtype=torch.bool)  # tokens of this model are no patches of one channel
    return torch.nn.functional.pad(patches_NCP, (special, 0), value=True).flatten(1)

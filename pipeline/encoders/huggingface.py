"""Any encoder that `transformers` can load, behind the `Encoder` protocol.

In: the folder of a model that was saved by `save_pretrained`, and decoded signals.
Out: one pooled float32 vector a signal.

Nothing is random: a checkpoint that lacks weights its output needs is refused, remote code is never run, and only
safetensors are read. Signals are sorted by length, so that a micro-batch holds little padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from pipeline.config.schema import EncoderConfig, SignalKind
from pipeline.encoders.base import Encoder
from pipeline.encoders.folder import folder_fingerprint, model_folder
from pipeline.encoders.pooling import pooled_forward
from pipeline.encoders.preprocess import ImagePreprocessor, Preprocessor, TextPreprocessor, VideoPreprocessor
from pipeline.encoders.sentences import sentence_max_tokens
from pipeline.encoders.waveforms import AudioPreprocessor, SeriesPreprocessor
from pipeline.signal import Signal

_EXAMPLE_TEXT = {"text": "a", "molecule": "C"}
_DEFAULT_IMAGE_SIZE = 224
_MAX_TOKENS = 1 << 20  # tokenizers without a limit say 10^30
_NUMBERED_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "clap_text_model")
# Trained on texts that are all padded to one length, with the padding in sight.
_ALWAYS_PADDED = ("siglip", "siglip2", "siglip_text_model", "siglip2_text_model")


def load_encoder(config: EncoderConfig, kind: SignalKind, root: Path, device: str = "cpu") -> Encoder:
    """Load a frozen encoder for signals of `kind`; what cannot work fails here, as one `ValueError`."""
    return load_frozen(HuggingFaceEncoder, config, kind, root, device)


def load_frozen(cls: type[_Frozen], config: EncoderConfig, kind: SignalKind, root: Path, device: str) -> _Frozen:
    """An object of `cls`; what cannot work fails here, as one `ValueError`."""
    folder = model_folder(config.path, revision=config.revision, root=root)
    try:
        encoder = cls(config, kind, folder, device)
    except (OSError, KeyError, ImportError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        # transformers reports a bad folder by any of these, over many lines.
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"encoder {config.name!r} cannot be loaded for {kind} from {folder}: {reason}") from error
    if config.width is not None and config.width != encoder.width:
        taken = f"pooling {config.pooling}" if config.tokens is None else "tokens"
        raise ValueError(
            f"encoder {config.name!r}: width is {config.width} in the configuration, but the model in {folder} "
            f"gives {encoder.width} values ({taken}): correct `width`, or name another model"
        )
    return encoder


class FrozenModel:
    """A frozen `AutoModel` with the preprocessing saved beside it; what it gives is a subclass's matter."""

    width: int

    def __init__(self, config: EncoderConfig, kind: SignalKind, folder: Path, device: str = "cpu") -> None:
        self.name = config.name
        self.fingerprint = folder_fingerprint(config, kind, folder)
        self._batch_size, self._device, self._dtype = config.batch_size, device, getattr(torch, config.dtype)
        self._model, self._random_weights = _load_model(folder, self._dtype)
        self._preprocess = load_preprocessor(folder, self._model, kind, frames=config.frames, rate_hz=config.rate_hz)
        self._model.to(device)

    def _check_output(self, output: npt.NDArray[np.float32]) -> None:
        """Refuse a model whose output, the example's, depends on weights that are not there."""
        if self._random_weights and not np.isfinite(output).all():
            names = ", ".join(self._random_weights[:3])
            raise ValueError(f"the checkpoint lacks weights that the output needs: {names}")

    def _micro_batches(self, signals: Sequence[Signal]) -> Iterator[list[int]]:
        lengths = [self._preprocess.length(signal) for signal in signals]
        order = sorted(range(len(signals)), key=lengths.__getitem__)
        alike = self._preprocess.same_length_only
        for _, group in groupby(order, key=lambda index: lengths[index] if alike else 0):
            indices = list(group)
            for start in range(0, len(indices), self._batch_size):
                yield indices[start : start + self._batch_size]

    def _moved(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        dtype = self._dtype
        return {
            name: value.to(self._device, dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }


_Frozen = TypeVar("_Frozen", bound=FrozenModel)


class HuggingFaceEncoder(FrozenModel):
    """A frozen model that gives one pooled vector a signal."""

    def __init__(self, config: EncoderConfig, kind: SignalKind, folder: Path, device: str = "cpu") -> None:
        super().__init__(config, kind, folder, device)
        example = self._preprocess.example()
        with torch.inference_mode():
            inputs = self._moved(self._preprocess([example]).inputs)
            self._forward = pooled_forward(self._model, kind, config.pooling, folder, inputs, layer=config.layer)
        vector = self._encode_batch([example])[0]
        self._check_output(vector)
        self.width = len(vector)

    def encode(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        """Vectors `[n, width]`, in the order of `signals`."""
        vectors = np.empty((len(signals), self.width), dtype=np.float32)
        for indices in self._micro_batches(signals):
            vectors[indices] = self._encode_batch([signals[index] for index in indices])
        return vectors

    @torch.inference_mode()
    def _encode_batch(self, signals: Sequence[Signal]) -> npt.NDArray[np.float32]:
        batch = self._preprocess(signals)
        vectors = self._forward(self._moved(batch.inputs)).float().cpu()
        if batch.sample_of_row is not None:
            counts = torch.bincount(batch.sample_of_row, minlength=len(signals))
            sums = vectors.new_zeros(len(signals), vectors.shape[1]).index_add_(0, batch.sample_of_row, vectors)
            vectors = sums / counts[:, None]
        result: npt.NDArray[np.float32] = vectors.numpy()
        return result


def _load_model(folder: Path, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The model, and the names of tensors that its checkpoint lacks.

    `transformers` fills those at random. Here they become NaN, so that none can reach an output unseen.
    """
    with _quiet():
        model, report = AutoModel.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    state: Mapping[str, Tensor] = model.state_dict()
    for name in missing:
        if name in state and state[name].is_floating_point():
            state[name].fill_(torch.nan)
    return model.eval().requires_grad_(False), missing


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no reports of unused weights; what matters of them is checked here."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def load_preprocessor(
    folder: Path, model: Any, kind: SignalKind, *, frames: int | None = None, rate_hz: float | None = None
) -> Preprocessor:
    """What turns signals of `kind` into the inputs of a model, as saved beside it."""
    if kind in ("image", "video"):
        return _pixel_preprocessor(folder, model, kind, frames)
    if kind == "audio":
        return AudioPreprocessor(AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False))
    if kind == "series":
        return _series_preprocessor(model, rate_hz)
    return _text_preprocessor(folder, model, kind)


def _text_preprocessor(folder: Path, model: Any, kind: SignalKind) -> Preprocessor:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if config.model_type in _NUMBERED_FROM_PADDING:
        positions -= config.pad_token_id + 1  # these number positions from the padding's id on
    limit = sentence_max_tokens(folder) or tokenizer.model_max_length
    return TextPreprocessor(
        tokenizer,
        max_tokens=min(limit, tokenizer.model_max_length, positions, _MAX_TOKENS),
        example=Signal(kind=kind, text=_EXAMPLE_TEXT[kind]),
        always_padded=model.config.model_type in _ALWAYS_PADDED,
    )


def _series_preprocessor(model: Any, rate_hz: float | None) -> Preprocessor:
    parameters = inspect.signature(model.forward).parameters
    masks = [name for name in ("past_observed_mask", "observed_mask") if name in parameters]
    if not masks or "past_values" not in parameters or "past_time_features" in parameters:
        raise ValueError(
            f"{model.config.model_type} does not take past values and a mask alone, as PatchTST and PatchTSMixer do: "
            f"bring it as a `module:Class`"
        )
    channels = getattr(model.config, "num_input_channels", None) or model.config.input_size
    return SeriesPreprocessor(
        context=model.config.context_length, channels=channels, mask_name=masks[0], rate_hz=rate_hz
    )


def _pixel_preprocessor(folder: Path, model: Any, kind: SignalKind, frames: int | None) -> Preprocessor:
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    vision = getattr(model.config, "vision_config", model.config)
    size = getattr(vision, "image_size", None) or _DEFAULT_IMAGE_SIZE
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    channels = getattr(vision, "num_channels", 3)
    if kind == "image":
        return ImagePreprocessor(processor, channels=channels, image_size=(height, width))
    return VideoPreprocessor(
        processor,
        channels=channels,
        image_size=(height, width),
        frames=getattr(vision, "num_frames", None),
        sampled=frames,
        input_name=model.main_input_name,
    )

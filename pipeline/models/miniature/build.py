"""Building every model of the miniature suite again.

In: names of models.  Out: their folders below `weights`, with checksums.

Each model is trained by one thread from its own seeds, so that neither the number of processes nor what is built beside
it changes a weight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from functools import partial

import torch
from transformers.utils import logging as transformers_logging

from pipeline.data.miniature.processes import in_processes
from pipeline.models.miniature import architectures as arch
from pipeline.models.miniature.language_model import train_language_model
from pipeline.models.miniature.pretraining import pretraining_signals
from pipeline.models.miniature.signal_encoder import SignalEncoderSpec, train_signal_encoder
from pipeline.models.miniature.text_encoder import TEXT_ENCODERS, train_text_encoder
from pipeline.models.miniature.training import WEIGHTS, save_model

LANGUAGE_MODEL = "lm"
_SATELLITE = partial(arch.vit, side=24, patch=4, hidden=96, channels=6, full_scale=10_000.0, mean=0.13, std=0.12)
_SIGNALS = 8000
_CLIPS = 6000  # a clip takes ten times an image's time to make


def _spec(modality: str, build: Callable[[], arch.Parts], seed: int, steps: int) -> SignalEncoderSpec:
    return SignalEncoderSpec(
        modality=modality,
        build=build,
        seed=seed,
        steps=steps,
        signals=_CLIPS if modality == "video" else _SIGNALS,
    )


# The two encoders of a modality differ in width and seed, and mostly in architecture.
SIGNAL_ENCODERS: dict[str, SignalEncoderSpec] = {
    "image-a": _spec("image", partial(arch.vit, side=32, patch=4, hidden=96, width=128, mean=0.3, std=0.25), 31, 2000),
    "image-b": _spec("image", partial(arch.vit, side=32, patch=4, hidden=96, width=192, mean=0.3, std=0.25), 32, 2000),
    "audio-a": _spec("audio", partial(arch.spectrogram_transformer, width=128), 33, 1000),
    "audio-b": _spec("audio", partial(arch.wav2vec2, width=160), 34, 800),
    "video-a": _spec("video", partial(arch.videomae, width=128), 35, 1500),
    "video-b": _spec("video", partial(arch.vivit, width=160), 36, 1200),
    "speech-a": _spec("speech", partial(arch.spectrogram_transformer, width=128), 37, 1000),
    "speech-b": _spec("speech", partial(arch.wav2vec2, width=96), 38, 800),
    "satellite-a": _spec("satellite", partial(_SATELLITE, width=96), 39, 1000),
    "satellite-b": _spec("satellite", partial(_SATELLITE, width=192), 40, 1000),
    "astronomy-a": _spec(
        "astronomy",
        partial(arch.convnext, sizes=(32, 48, 64), depths=(1, 2, 2), patch=2, mean=0.25, std=0.2),
        41,
        2500,
    ),
    "astronomy-b": _spec(
        "astronomy", partial(arch.vit, side=32, patch=4, hidden=96, width=256, mean=0.25, std=0.2), 42, 1500
    ),
    "imu-a": _spec("imu", partial(arch.patch_tst, width=96), 43, 1000),
    "imu-b": _spec("imu", partial(arch.patch_tst, width=160, patch=16, layers=1), 44, 1000),
    "molecule-a": _spec("molecule", partial(arch.smiles_roberta, width=192), 45, 800),
    "molecule-b": _spec("molecule", partial(arch.smiles_bert, width=64), 46, 1200),
    "digits-a": _spec(
        "digits", partial(arch.vit, side=8, channels=1, patch=2, hidden=64, width=64, mean=0.3, std=0.37), 47, 1000
    ),
    "digits-b": _spec(
        "digits", partial(arch.vit, side=8, channels=1, patch=1, hidden=64, width=192, mean=0.3, std=0.37), 48, 1000
    ),
}
"""Signal encoders by name."""

MODEL_NAMES = (LANGUAGE_MODEL, *TEXT_ENCODERS, *SIGNAL_ENCODERS)
"""Every model of the suite."""


def build_models(names: Collection[str], *, processes: int) -> Iterator[tuple[str, float]]:
    """Train models and overwrite their folders; yields each name with its seconds as it is done."""
    unknown = sorted(set(names) - set(MODEL_NAMES))
    if unknown:
        raise ValueError(f"models: expected some of {', '.join(MODEL_NAMES)}, got {', '.join(unknown)}")
    # The longest ones first, so that no process is left with one at the end.
    ordered = sorted(names, key=lambda name: not name.startswith(("lm", "video", "image")))
    yield from in_processes(_build, ordered, processes)


def _build(name: str) -> float:
    started = time.monotonic()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    save_model(WEIGHTS / name, *_trained(name))
    return time.monotonic() - started


def _trained(name: str) -> arch.Parts:
    if name == LANGUAGE_MODEL:
        return train_language_model()
    if name in TEXT_ENCODERS:
        return train_text_encoder(TEXT_ENCODERS[name])
    spec = SIGNAL_ENCODERS[name]
    return train_signal_encoder(spec, pretraining_signals(spec.modality, spec.signals))

"""Images of any number of bands to `pixel_values`, by a saved image processor.

In: arrays `[H, W, C]` (uint8, uint16 or float).  Out: what `transformers`' processor makes of them, in its NumPy/PIL
backend, so that the result does not depend on whether torchvision is installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

_PIL_CHANNELS = (1, 3, 4)
_BYTE_SCALE = 1 / 255
_FILTERS = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}


def prepare_images(images: Sequence[npt.NDArray[Any]], processor: Any, channels: int) -> Mapping[str, Tensor]:
    """`pixel_values` (and what else the processor returns) of images `[H, W, C]`."""
    arrays = [_as_bytes(_with_channels(image, channels), processor) for image in images]
    by_pil = [array.shape[-1] in _PIL_CHANNELS and array.dtype == np.uint8 for array in arrays]
    if all(by_pil):
        return _processed(arrays, processor)
    # PIL can neither resize multi-band images nor floats beyond [0, 1]. Each image goes its own way, whatever else the
    # batch holds.
    if getattr(processor, "do_resize", False):
        arrays = [array if pil else _resized(array, processor) for array, pil in zip(arrays, by_pil, strict=True)]
    parts = [
        _processed([array], processor, **({} if pil else {"do_resize": False}))
        for array, pil in zip(arrays, by_pil, strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _processed(arrays: Sequence[npt.NDArray[Any]], processor: Any, **options: Any) -> Mapping[str, Tensor]:
    first = [np.ascontiguousarray(array.transpose(2, 0, 1)) for array in arrays]
    return dict(processor(images=first, input_data_format="channels_first", return_tensors="pt", **options))


def _with_channels(image: npt.NDArray[Any], channels: int) -> npt.NDArray[Any]:
    """Bands as the model takes them: grey is repeated, alpha dropped, anything else must fit."""
    image = image[..., None] if image.ndim == 2 else image
    found = image.shape[-1]
    if found == channels:
        return image
    if found == 1 and channels == 3:
        return np.repeat(image, 3, axis=-1)
    if found == 4 and channels == 3:
        return image[..., :3]
    raise ValueError(f"the model takes images of {channels} channels, got one of shape {image.shape}")


def _as_bytes(image: npt.NDArray[Any], processor: Any) -> npt.NDArray[Any]:
    """16-bit images for a processor that divides by 255 become 8-bit; every other value range is the model's own."""
    divides_by_255 = processor.do_rescale and math.isclose(processor.rescale_factor, _BYTE_SCALE, rel_tol=1e-3)
    if image.dtype == np.uint16 and divides_by_255:
        return (image / 257.0).round().astype(np.uint8)
    return image


def _resized(image: npt.NDArray[Any], processor: Any) -> npt.NDArray[Any]:
    size, (height, width) = processor.size, image.shape[:2]
    if size.height and size.width:
        target = (size.height, size.width)
    elif size.shortest_edge:
        scale = size.shortest_edge / min(height, width)
        target = (int(height * scale), int(width * scale))
    else:
        raise ValueError(f"resizing images that PIL cannot hold needs height and width, or shortest_edge; got {size}")
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    mode = _FILTERS.get(int(processor.resample), "bilinear")
    smooth = {} if mode == "nearest" else {"antialias": True, "align_corners": False}
    return functional.interpolate(pixels, size=target, mode=mode, **smooth)[0].permute(1, 2, 0).numpy()

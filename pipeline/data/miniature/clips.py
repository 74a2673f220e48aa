"""Modality `video`: one object that moves over a textured ground, as an H.264 clip.

In: a random generator.  Out: an `Example` whose values were drawn from the grammar and then rendered.
Nuisance: object colour and size, path offset, phase of the motion, ground, noise, and the codec's own losses.
"""

from __future__ import annotations

import io

import av
import numpy as np
import numpy.typing as npt

from pipeline.data.miniature import drawing
from pipeline.data.miniature.drawing import Plane
from pipeline.data.miniature.example import Example
from pipeline.data.miniature.grammar import GRAMMARS

SIDE = 32
FRAMES = 8
FRAMES_PER_S = 8
_GRAMMAR = GRAMMARS["video"]
_FIGURES: dict[str, drawing.Distance] = {
    "ball": drawing.circle,
    "box": drawing.square,
    "kite": drawing.diamond,
    "wedge": drawing.triangle,
    "hoop": drawing.ring,
    "beam": drawing.beam,
    "plus": drawing.cross,
    "pair of discs": drawing.discs,
}
_HEADINGS = {
    "right": (1.0, 0.0),
    "left": (-1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "northeast": (0.707, -0.707),
    "northwest": (-0.707, -0.707),
    "southeast": (0.707, 0.707),
    "southwest": (-0.707, 0.707),
}
_PIXELS_PER_FRAME = (0.35, 0.7, 1.1, 1.6, 2.2, 3.0)
# libx264's macroblock tree reads memory that nobody wrote when frames are this small: bytes would differ by process.
_CODEC_OPTIONS = {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}


def make(rng: np.random.Generator) -> Example:
    """One clip."""
    values = _GRAMMAR.sample(rng)
    x, y = drawing.pixel_grid(SIDE, SIDE)
    ground = rng.uniform(20, 70, 3) + (rng.uniform(2, 8) * drawing.soft_noise((SIDE, SIDE), 2.0, rng))[:, :, None]
    tint = rng.uniform(110, 235, 3)
    tint[rng.integers(3)] = 240.0
    frames = np.empty((FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    for index, mask in enumerate(_masks(values, x, y, rng)):
        frame = ground + mask[:, :, None] * (tint - ground)
        frames[index] = drawing.to_uint8(frame + rng.normal(0, 4, frame.shape))
    return Example(encode_clip(frames), values)


def _masks(values: dict[str, str], x: Plane, y: Plane, rng: np.random.Generator) -> list[Plane]:
    """Coverage of the object in every frame."""
    figure = _FIGURES[values["object"]]
    heading = np.array(_HEADINGS[values["direction"]])
    step = _PIXELS_PER_FRAME[_GRAMMAR.level("speed", values["speed"])] * rng.uniform(0.94, 1.06)
    middle = (SIDE - 1) / 2 + rng.uniform(-2, 2, 2)
    radius = rng.uniform(4.4, 5.2)
    angle = rng.uniform(-0.15, 0.15)
    phase = rng.uniform(0, 1)
    masks = []
    for index in range(FRAMES):
        progress = index - (FRAMES - 1) / 2
        size, stretch, lift, light = _pose(values["motion"], index, phase)
        centre_x, centre_y = middle + heading * step * progress - np.array([0.0, lift])
        mask = drawing.coverage(
            figure, (x - centre_x) / stretch, (y - centre_y) * stretch, radius=radius * size, angle=angle
        )
        masks.append(light * mask)
    return masks


def _pose(motion: str, index: int, phase: float) -> tuple[float, float, float, float]:
    """Size factor, horizontal stretch, lift in pixels and opacity of one frame."""
    part = index / (FRAMES - 1)
    if motion == "bouncing":
        return 1.0, 1.0, 5.0 * abs(np.sin(np.pi * (index / 4 + phase))) - 2.5, 1.0
    if motion == "wobbling":
        return 1.0, float(np.exp(0.4 * np.sin(2 * np.pi * (index / 4 + phase)))), 0.0, 1.0
    if motion == "flashing":
        return 1.0, 1.0, 0.0, 1.0 if (index + int(phase * 4)) % 4 < 2 else 0.35
    if motion == "growing":
        return 0.6 + 0.85 * part, 1.0, 0.0, 1.0
    if motion == "shrinking":
        return 1.45 - 0.85 * part, 1.0, 0.0, 1.0
    return 1.0, 1.0, 0.0, 1.0


def encode_clip(frames: npt.NDArray[np.uint8]) -> bytes:
    """An MP4 file of `[F, H, W, 3]` frames; the same bytes for the same frames, in any process."""
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S, options=_CODEC_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()

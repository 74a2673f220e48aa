"""Decoders: the payload of one sample as a `Signal`.

In: a file's bytes (PNG and the like, TIFF, WAV and the like, MP4 and the like, CSV), text, or a list of numbers.
Out: a `Signal`, or a `DecodeError` that says in one line why the input is unreadable or cut short.
"""

from __future__ import annotations

import io
import reprlib
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import av
import numpy as np
import numpy.typing as npt
import soundfile
import tifffile
from av.video.reformatter import VideoReformatter
from PIL import Image

from pipeline.config.schema import SignalKind
from pipeline.data.sample import Payload
from pipeline.signal import Signal

MAX_ELEMENTS = 1 << 28
"""Largest decoded array; a clip beyond it is refused instead of filling the memory."""

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KEPT_DTYPES = (np.uint8, np.uint16, np.float32)
_UNKNOWN_WAV_SIZES = (0, 0xFFFFFFFF)
_TIME_COLUMN = "time_s"
_NUMBERS = (float, int, np.float16)


class DecodeError(ValueError):
    """A payload that cannot be decoded."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """Why, in one line."""


def decode(kind: SignalKind, payload: Payload) -> Signal:
    """The payload as a signal of this kind."""
    if kind == "vector":
        return Signal(kind=kind, array=_vector(payload))
    if isinstance(payload, list):
        raise DecodeError(f"{kind} needs an encoded file or text, got a list")
    if kind in ("text", "molecule"):
        text = _text(payload)
        return Signal(kind=kind, text=_checked_smiles(text) if kind == "molecule" else text)
    if isinstance(payload, str):
        raise DecodeError(f"{kind} needs an encoded file, got text")
    with _unreadable(kind):
        array, rate_hz = _ARRAY_DECODERS[kind](payload)
    if array.size == 0:
        raise DecodeError(f"{kind} is empty")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DecodeError(f"{kind} holds values that are not finite")
    return Signal(kind=kind, array=array, rate_hz=rate_hz)


@contextmanager
def _unreadable(kind: SignalKind) -> Iterator[None]:
    """Whatever a third-party decoder raises on damaged input (they raise nearly anything) is a `DecodeError`."""
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(f"{kind} cannot be decoded: {detail}") from error


_Decoded = tuple[npt.NDArray[np.generic], float | None]


def _image(payload: bytes) -> _Decoded:
    if payload.startswith(_TIFF_MAGIC):
        return _tiff(payload), None
    with Image.open(io.BytesIO(payload)) as image:
        if image.mode == "1":
            array = np.array(image.convert("L"))
        elif image.mode in ("L", "RGB", "I;16", "F"):
            array = np.array(image)
        else:
            array = np.array(image.convert("RGB"))
    array = _kept_dtype(array)
    return array[:, :, None] if array.ndim == 2 else array, None


def _tiff(payload: bytes) -> npt.NDArray[np.generic]:
    """Bands last, whether the file stores them by pixel, by plane or as pages."""
    with tifffile.TiffFile(io.BytesIO(payload)) as file:
        series = file.series[0]
        array, axes = series.asarray(), series.axes
    bands = [axis for axis in axes if axis not in "YX"]
    if "Y" not in axes or "X" not in axes or len(bands) > 1:
        raise DecodeError(f"TIFF has axes {axes!r}, needs height, width and at most one axis of bands")
    array = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (0, 1))
    return _kept_dtype(array[:, :, None] if array.ndim == 2 else array)


def _kept_dtype(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(array if array.dtype in _KEPT_DTYPES else array.astype(np.float32))


def _audio(payload: bytes) -> _Decoded:
    _check_wav_length(payload)
    with soundfile.SoundFile(io.BytesIO(payload)) as file:
        if file.frames * file.channels > MAX_ELEMENTS:
            raise DecodeError(f"audio is too long to decode at once ({file.frames} frames)")
        frames = file.read(dtype="float32", always_2d=True)
        if len(frames) != file.frames:
            raise DecodeError(f"audio is cut short: {len(frames)} of {file.frames} frames")
        return frames.mean(axis=1, dtype=np.float32), float(file.samplerate)


def _check_wav_length(payload: bytes) -> None:
    """libsndfile reads a cut WAV file without a word, so its chunk sizes are compared with the bytes that are there."""
    if payload[:4] != b"RIFF":
        return
    position = 12
    while position + 8 <= len(payload):
        name, size = struct.unpack_from("<4sI", payload, position)
        if name == b"data" and size in _UNKNOWN_WAV_SIZES:
            return
        if position + 8 + size > len(payload):
            raise DecodeError(
                f"audio is cut short: chunk {name!r} needs {size} bytes, {len(payload) - position - 8} left"
            )
        position += 8 + size + size % 2


def _video(payload: bytes) -> _Decoded:
    frames: list[npt.NDArray[np.uint8]] = []
    colours = VideoReformatter()  # one for all frames: building it takes as long as decoding a small clip
    with av.open(io.BytesIO(payload), mode="r") as container:
        if not container.streams.video:
            raise DecodeError("file has no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        limit = MAX_ELEMENTS // max(1, 3 * stream.width * stream.height)
        for frame in container.decode(stream):
            if len(frames) == limit:
                raise DecodeError(f"video is too long to decode at once (more than {limit} frames)")
            frames.append(np.asarray(colours.reformat(frame, format="rgb24").to_ndarray(), dtype=np.uint8))
        if stream.frames and len(frames) < stream.frames:
            raise DecodeError(f"video is cut short: {len(frames)} of {stream.frames} frames")
        rate_hz = float(stream.average_rate) if stream.average_rate else None
    return np.stack(frames) if frames else np.empty((0, 0, 0, 3), np.uint8), rate_hz


def _series(payload: bytes) -> _Decoded:
    """A CSV with a header of channel names; a `time_s` column is the clock, not a channel."""
    header, _, body = payload.decode("utf-8-sig").partition("\n")
    names = [name.strip() for name in header.split(",")]
    if not body.strip():
        raise DecodeError("series has no rows below its header")
    table = np.loadtxt(io.StringIO(body), delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    if table.shape[1] != len(names):
        raise DecodeError(f"series has {table.shape[1]} columns, its header names {len(names)}")
    rate_hz = None
    if _TIME_COLUMN in names:
        clock = names.index(_TIME_COLUMN)
        steps = np.diff(table[:, clock])
        if len(steps) == 0 or not (steps > 0).all():
            raise DecodeError(f"column {_TIME_COLUMN!r} must increase over at least two rows")
        rate_hz = float(1.0 / np.median(steps))
        table = np.delete(table, clock, axis=1)
    return table.astype(np.float32), rate_hz


_ARRAY_DECODERS: dict[SignalKind, Callable[[bytes], _Decoded]] = {
    "image": _image,
    "audio": _audio,
    "video": _video,
    "series": _series,
}


def _vector(payload: Payload) -> npt.NDArray[np.float32]:
    """Numbers only: a text that looks like one, or a truth value, is a sign of the wrong column."""
    if not isinstance(payload, list):
        raise DecodeError(f"vector needs a list of numbers, got {type(payload).__name__}")
    if not payload:
        raise DecodeError("vector is empty")
    other = next((value for value in payload if type(value) not in _NUMBERS), 0.0)
    if type(other) not in _NUMBERS:
        raise DecodeError(f"vector holds something that is no number: {reprlib.repr(other)}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(payload, dtype=np.float64).astype(np.float32)
    except OverflowError as error:
        raise DecodeError("vector holds values that are not finite") from error
    if not np.isfinite(array).all():
        raise DecodeError("vector holds values that are not finite")
    return array


def _text(payload: bytes | str) -> str:
    if isinstance(payload, bytes):
        try:
            payload = payload.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError("text is not UTF-8") from error
    if not payload.strip():
        raise DecodeError("text is empty")
    return payload.strip()


def _checked_smiles(smiles: str) -> str:
    # Only molecules need RDKit, and importing it takes longer than decoding thousands of them.
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles)
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise DecodeError(f"not a SMILES string: {smiles[:60]!r}")
    return smiles

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config.schema import SignalKind
from pipeline.data.decoders import DecodeError, decode
from pipeline.data.miniature import clips, motion, scenes, sounds, tiles
from pipeline.data.miniature.example import Example, example_rng

_FILES: dict[str, tuple[SignalKind, Callable[[np.random.Generator], Example]]] = {
    "png": ("image", scenes.make),
    "tiff": ("image", tiles.make),
    "wav": ("audio", sounds.make),
    "mp4": ("video", clips.make),
}


def _payload(name: str) -> bytes:
    payload = _FILES[name][1](example_rng(0, name, 0)).payload
    assert isinstance(payload, bytes)
    return payload


_PAYLOADS = {name: _payload(name) for name in _FILES}


def _array(kind: SignalKind, payload: bytes | str) -> np.ndarray:
    array = decode(kind, payload).array
    assert array is not None
    return array


@given(st.sampled_from(list(_FILES)), st.floats(0.0, 0.9))
def test_truncated_files_are_decode_errors(name: str, share: float) -> None:
    payload = _PAYLOADS[name]
    with pytest.raises(DecodeError):
        decode(_FILES[name][0], payload[: int(share * len(payload))])


@given(st.sampled_from(["image", "audio", "video", "series"]), st.binary(max_size=300))
def test_garbage_is_a_decode_error(kind: SignalKind, payload: bytes) -> None:
    with pytest.raises(DecodeError, match=rf"^{kind} |^file has|^column|^TIFF"):
        decode(kind, payload)


def test_video_that_says_how_long_it_is_and_is_shorter(tmp_path: Path) -> None:
    """With its index in front, a cut MP4 opens without a complaint."""
    path = str(tmp_path / "fast.mp4")
    options = {"movflags": "faststart"}
    with av.open(io.BytesIO(_PAYLOADS["mp4"]), mode="r") as reader, av.open(path, "w", options=options) as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)
    whole = Path(path).read_bytes()
    assert whole.index(b"moov") < whole.index(b"mdat")
    assert _array("video", whole).shape == (clips.FRAMES, 32, 32, 3)
    with pytest.raises(DecodeError, match="video"):
        decode("video", whole[:-300])


@pytest.mark.parametrize(
    ("mode", "shape", "dtype"),
    [
        ("L", (4, 5, 1), np.uint8),
        ("1", (4, 5, 1), np.uint8),
        ("RGB", (4, 5, 3), np.uint8),
        ("RGBA", (4, 5, 3), np.uint8),
        ("P", (4, 5, 3), np.uint8),
        ("I;16", (4, 5, 1), np.uint16),
    ],
)
def test_png_modes(mode: str, shape: tuple[int, ...], dtype: type) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (5, 4)).save(buffer, "png")
    array = _array("image", buffer.getvalue())
    assert array.shape == shape
    assert array.dtype == dtype


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(("stored", "kept"), [("uint8", "uint8"), ("uint16", "uint16"), ("int16", "float32")])
def test_tiff_bands_come_last(planar: str, stored: str, kept: str) -> None:
    bands = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(stored)
    buffer = io.BytesIO()
    written = bands if planar == "contig" else np.moveaxis(bands, 2, 0)
    tifffile.imwrite(buffer, written, photometric="minisblack", planarconfig=planar, metadata=None)
    array = _array("image", buffer.getvalue())
    assert array.dtype == kept
    np.testing.assert_array_equal(array, bands)


def test_tiff_with_more_than_bands_is_refused() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((2, 3, 4, 5, 6), np.uint8), photometric="minisblack", metadata={"axes": "TZCYX"})
    with pytest.raises(DecodeError, match="TIFF has axes"):
        decode("image", buffer.getvalue())


@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_audio_becomes_mono(form: str) -> None:
    buffer = io.BytesIO()
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    soundfile.write(buffer, stereo, 16000, format=form)
    signal = decode("audio", buffer.getvalue())
    assert signal.rate_hz == 16000
    assert signal.array is not None
    assert signal.array.dtype == np.float32
    np.testing.assert_allclose(signal.array.astype(np.float64), 0.125, atol=1e-4)


def test_audio_of_unknown_length_is_read_to_its_end() -> None:
    """Programs that stream WAV leave the size of the data open."""
    payload = bytearray(_PAYLOADS["wav"])
    place = payload.index(b"data") + 4
    payload[place : place + 4] = b"\xff\xff\xff\xff"
    assert len(_array("audio", bytes(payload))) == 4000


def test_series_clock_is_not_a_channel() -> None:
    signal = decode("series", b"time_s,a,b\n0.0,1,2\n0.5,3,4\n1.0,5,6\n")
    assert signal.rate_hz == 2.0
    np.testing.assert_array_equal(signal.array, np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    assert decode("series", b"a\n1\n").rate_hz is None


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "has no rows"),
        (b"a,b\n", "has no rows"),
        (b"a,b\n1,2\n3", "cannot be decoded"),
        (b"a,b\n1,2,3\n", "has 3 columns, its header names 2"),
        (b"a\nx\n", "cannot be decoded"),
        (b"a\nnan\n", "not finite"),
        (b"\xff\xfe", "cannot be decoded"),
        (b"time_s,a\n1,1\n1,2\n", "'time_s' must increase"),
    ],
)
def test_damaged_series(payload: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode("series", payload)


def test_truncated_series_is_a_decode_error() -> None:
    payload = motion.make(example_rng(0, "imu", 0)).payload
    assert isinstance(payload, bytes)
    with pytest.raises(DecodeError):
        decode("series", payload[: payload.rindex(b",")])


@pytest.mark.parametrize("smiles", ["c1ccc(cc", "C(", "CX", "[NH4", "C1CC", "", "   ", b"\xff"])
def test_damaged_molecules(smiles: bytes | str) -> None:
    with pytest.raises(DecodeError):
        decode("molecule", smiles)


def test_text_and_molecules_pass_as_text() -> None:
    assert decode("molecule", " CCO ").text == "CCO"
    assert decode("text", "two words").text == "two words"
    assert decode("text", "é".encode()).text == "é"
    with pytest.raises(DecodeError, match="text is not UTF-8"):
        decode("text", b"\xff")
    with pytest.raises(DecodeError, match="image needs an encoded file, got text"):
        decode("image", "a.png")


def test_reason_is_one_line() -> None:
    with pytest.raises(DecodeError) as caught:
        decode("image", b"not an image")
    assert caught.value.reason == str(caught.value)
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("kind", ["image", "audio", "video", "series", "text", "molecule"])
def test_a_list_is_a_vector_and_nothing_else(kind: SignalKind) -> None:
    with pytest.raises(DecodeError, match=f"^{kind} needs an encoded file or text, got a list$"):
        decode(kind, [1.0, 2.0])
    array = decode("vector", [1, 2.5, np.float16(3)]).array
    assert array is not None and array.dtype == np.float32 and array.tolist() == [1, 2.5, 3]
    for payload in (b"\0\0\0\0", "[1.0]"):
        with pytest.raises(DecodeError, match="vector needs a list of numbers, got"):
            decode("vector", payload)

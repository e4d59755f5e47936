"""Decoding: stored types, channel conversion, strictness."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from tests.data.image_files import encode, noise

from hjepa.data.images.decode import Decoded, UnreadableImageError, convert_channels, decode

RGB = noise(0)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_decode_to_the_same_pixels(kind: str) -> None:
    decoded = decode(encode(RGB, kind))
    assert not decoded.alpha
    assert torch.equal(decoded.pixels, torch.from_numpy(RGB.transpose(2, 0, 1).copy()))


def test_jpeg_equals_pillow() -> None:
    data = encode(noise(1, 50, 70), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data).pixels.permute(1, 2, 0).numpy(), expected)


def test_exif_orientation_is_applied() -> None:
    image = Image.fromarray(noise(2, 10, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for kind in ("JPEG", "PNG"):
        file = io.BytesIO()
        image.save(file, kind, exif=exif)
        assert decode(file.getvalue()).pixels.shape == (3, 30, 10)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greyscale_stays_16_bit(kind: str) -> None:
    deep = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    pixels = decode(encode(deep, kind)).pixels
    assert pixels.dtype == torch.uint16
    assert np.array_equal(pixels[0].numpy(), deep)
    colour = convert_channels(Decoded(pixels, alpha=False), 3)
    assert colour.dtype == torch.uint16
    assert colour.shape == (3, 16, 16)


def test_16_bit_colour_png_stays_16_bit() -> None:
    import struct
    import zlib

    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(">u2")

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pixels = decode(data).pixels
    assert pixels.dtype == torch.uint16
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), deep.astype(np.uint16))
    with pytest.raises(UnreadableImageError, match="damaged PNG"):
        decode(data[:60])


def test_transparency_is_composited_over_white() -> None:
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[..., 0] = 200  # red under everything
    rgba[0, :, 3] = 255
    rgba[1, 1, 3] = 51
    colour = convert_channels(decode(encode(rgba)), 3)
    assert colour[:, 0, 0].tolist() == [200, 0, 0]
    assert colour[:, 1, 0].tolist() == [255, 255, 255]
    assert colour[:, 1, 1].tolist() == [244, 204, 204]
    assert convert_channels(decode(encode(rgba)), 4)[3].tolist() == [[255, 255], [0, 51]]


def test_greyscale_conversion_equals_pillow() -> None:
    expected = np.asarray(Image.fromarray(RGB).convert("L")).astype(int)
    grey = convert_channels(decode(encode(RGB)), 1)[0].numpy().astype(int)
    assert np.abs(grey - expected).max() <= 1


def test_many_channels_are_kept() -> None:
    cube = np.random.default_rng(0).integers(0, 65536, (13, 6, 5)).astype(np.uint16)
    assert torch.equal(decode(npy(cube)).pixels, torch.from_numpy(cube))
    pages = [Image.fromarray(noise(i, channels=1)) for i in range(5)]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    assert decode(file.getvalue()).pixels.shape == (5, 12, 16)
    with pytest.raises(UnreadableImageError, match=r"has 13 channels, which cannot be converted to data.channels=3"):
        convert_channels(decode(npy(cube)), 3)


def test_floating_point_images_must_be_in_the_unit_interval() -> None:
    values = np.random.default_rng(0).random((4, 5), dtype=np.float64)
    assert decode(npy(values)).pixels.dtype == torch.float32
    for wrong in (values + 1, values - 1, np.full((2, 2), np.nan)):
        with pytest.raises(UnreadableImageError, match=r"outside \[0, 1\]"):
            decode(npy(wrong))
    with pytest.raises(UnreadableImageError, match="int64"):
        decode(npy(np.zeros((3, 3), dtype=np.int64)))
    with pytest.raises(UnreadableImageError, match="shape"):
        decode(npy(np.zeros((2, 3, 4, 5), dtype=np.uint8)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_files_are_errors_regardless_of_pillow_settings(
    kind: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data = encode(noise(3, 64, 64), kind)
    for share in (0.1, 0.5, 0.8):
        with pytest.raises(UnreadableImageError):
            decode(data[: int(len(data) * share)])
    assert decode(data).pixels.shape == (3, 64, 64)
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"this is text", "not an image"),
        (b"\xff\xd8\xff\xe0 and no more", "truncated or damaged"),
        (b"II*\x00zzzz", "unsupported kind of TIFF"),
        (b"\x93NUMPY and no more", "damaged NumPy"),
    ],
)
def test_unreadable_files_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode(data)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)

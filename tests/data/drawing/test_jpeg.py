"""The JPEG encoder: its files decode to what was encoded, with Pillow and with OpenCV."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from data.drawing.jpeg import QUALITY, _cosines, encode_jpeg
from data.drawing.picture import draw


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def _pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@pytest.mark.parametrize("decode", [_pillow, _opencv])
@pytest.mark.parametrize("number", [1, 4, 8])
def test_a_drawn_picture_survives(decode, number: int) -> None:
    pixels = draw("val", number).pixels
    assert _psnr(decode(encode_jpeg(pixels)), pixels) > 32


def test_as_good_and_as_small_as_pillows_own_file() -> None:
    pixels = draw("val", 1).pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    data, reference = encode_jpeg(pixels), buffer.getvalue()
    assert _psnr(_pillow(data), pixels) > _psnr(_pillow(reference), pixels) - 0.1
    assert len(data) < 1.05 * len(reference)
    with Image.open(io.BytesIO(data)) as ours, Image.open(buffer) as theirs:
        assert ours.quantization == theirs.quantization


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (17, 1), (3, 40)])
def test_any_size(size: tuple[int, int]) -> None:
    rows = np.linspace(20, 230, size[0])[:, None, None]
    columns = np.linspace(-15, 15, size[1])[None, :, None]
    pixels = (rows + columns + np.array([0, 5, -5])).astype(np.uint8)
    decoded = _pillow(encode_jpeg(pixels))
    assert decoded.shape == pixels.shape
    assert _psnr(decoded, pixels) > 35


def test_the_largest_values_have_codes() -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 2, (64, 64, 3)).astype(np.uint8) * 255
    tiles = np.zeros((64, 64, 3), np.uint8)
    tiles[(np.add.outer(np.arange(64) // 8, np.arange(64) // 8) % 2).astype(bool)] = 255
    lonely = np.full((8, 8, 3), 128, np.uint8)
    lonely[np.add.outer(np.arange(8), np.arange(8)) % 2 == 0] = 140  # high frequencies alone: runs of zeros beyond 16
    for pixels in (noise, tiles, lonely, np.zeros_like(tiles), np.full_like(tiles, 255)):
        decoded = _pillow(encode_jpeg(pixels))
        assert _psnr(decoded, pixels) > 20
        assert np.abs(decoded.mean() - pixels.mean()) < 3


def test_no_cosine_is_near_a_half() -> None:
    """Rounding the table gives the same numbers whatever the last bits of a libm."""
    angles = np.pi / 16 * np.outer(np.arange(8), 2 * np.arange(8) + 1)
    exact = np.cos(angles) * np.array([0.125**0.5, *[0.5] * 7])[:, None] * 4096
    assert np.array_equal(_cosines(), np.rint(exact))
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-3

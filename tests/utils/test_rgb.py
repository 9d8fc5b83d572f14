"""as_rgb: pictures in memory become what the same picture in a file would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images import read_image
from utils.rgb import as_rgb

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)


def test_arrays() -> None:
    assert np.shares_memory(as_rgb(COLOURS), COLOURS)
    flipped = as_rgb(COLOURS[:, :, ::-1])
    assert flipped.flags.c_contiguous
    assert np.array_equal(flipped, COLOURS[:, :, ::-1])
    assert np.array_equal(as_rgb(np.dstack((COLOURS, COLOURS[:, :, 0]))), COLOURS)
    for grey in (COLOURS[:, :, 0], COLOURS[:, :, :1]):
        assert np.array_equal(as_rgb(grey), np.repeat(COLOURS[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_an_opened_image_is_what_its_file_is(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 65536, (7, 5), dtype=np.uint16))
    else:
        image = Image.fromarray(COLOURS).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert np.array_equal(as_rgb(Image.open(path)), read_image(path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOURS).save(tmp_path / f"a.{suffix}", exif=exif)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert np.array_equal(as_rgb(image), read_image(tmp_path / f"a.{suffix}"))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ([[1, 2, 3]], "expected a Pillow image or a NumPy array, found list"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"a list: list\(images\)"),
        (np.zeros((3, 4, 5), np.uint8), r"image\.transpose\(1, 2, 0\)"),
        (np.zeros((7, 5, 2), np.uint8), r"found uint8 of shape \(7, 5, 2\); give one image"),
        (np.zeros(7, np.uint8), "give one image"),
        (np.zeros((4, 5, 3)), r"found float64 .* \(255 \* image\)\.round\(\)\.astype\(np\.uint8\)"),
        (np.zeros((4, 5, 3), np.int64), r"image\.astype\(np\.uint8\)"),
        (np.zeros((4, 5), bool), r"image\.astype\(np\.uint8\)"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (Image.new("F", (3, 2)), "32-bit pixels have no agreed range"),
    ],
)
def test_what_is_no_picture_is_told(picture: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_rgb(picture)

"""The drawn pictures: the same everywhere, with boxes that fit."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from data.drawing.figures import FULL, NAMES, ONE, Placement, sine
from data.drawing.jpeg import encode_jpeg
from data.drawing.picture import EMPTY_PERCENT, IMAGE_SIZES, MOST_OBJECTS, Picture, draw
from data.drawing.stream import Stream
from data.drawing.textures import TEXTURES, texture

# SHA-256 of the JPEG files, from x86-64, NumPy 2.4 and 1.26; raise data.shapes.VERSION when they change.
DIGESTS = {
    ("train", 0): "7c22b86414053e591d78a9f55d7524651b56b2c85b3e4e4b1afa4bb3679397e1",
    ("train", 999): "b9ecfeb93c44a67537131d56ad17b04736b220764342bfcd0662a02753a50a4e",
    ("val", 0): "693d8c5cb47aacd3c5832bbe1127484d60750005cd084c84535513c63ed345fa",
    ("val", 199): "523be67159665d25a80b0365257d2f3a20a8f26fb02cd5196c7b1489fd1b2cae",
}


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [draw("train", number) for number in range(60)]


def test_a_picture_without_objects(pictures: list[Picture]) -> None:
    empty = [picture for picture in pictures if not picture.labels]
    assert empty
    for picture in empty:
        assert picture.boxes() == picture.areas() == []
        assert (picture.owners == -1).all()


@pytest.mark.parametrize(("split", "number"), DIGESTS)
def test_the_same_bytes_everywhere(split: str, number: int) -> None:
    digest = hashlib.sha256(encode_jpeg(draw(split, number).pixels)).hexdigest()
    assert digest == DIGESTS[split, number]


def test_splits_and_numbers_differ() -> None:
    streams = [Stream(1, split, number).below(2**60) for split in range(2) for number in range(50)]
    assert len(set(streams)) == len(streams)


def test_stream_is_splitmix64() -> None:
    """The first numbers of the authors' splitmix64.c from the seed 0."""
    assert [int(value) for value in Stream().raws(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    one, other = Stream(7), Stream(7)
    assert [one.raw() for _ in range(5)] == [int(value) for value in other.raws(5)]
    assert one.raw() == other.raw()


def test_stream_reaches_all_values_and_no_others() -> None:
    stream = Stream(3)
    assert {stream.between(-2, 2) for _ in range(200)} == set(range(-2, 3))
    assert set(np.unique(stream.grid(20, 20, 5))) == set(range(5))
    assert 350 < sum(stream.chance(40) for _ in range(1000)) < 450


def test_no_sine_is_near_a_half() -> None:
    """Rounding the table gives the same numbers whatever the last bits of a libm."""
    exact = np.sin(np.arange(256) * np.pi / 128) * ONE
    assert [sine(angle) for angle in range(256)] == np.rint(exact).tolist()
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_fits_its_window_and_size(name: str) -> None:
    for angle in (0, 13, 64, 200):
        coverage = Placement(name, 401, 395, 80, 72, angle).coverage()
        assert coverage.min() == 0
        assert coverage.max() == FULL
        assert not coverage[[0, -1]].any()
        assert not coverage[:, [0, -1]].any()
        rows, columns = np.flatnonzero(coverage.any(axis=1)), np.flatnonzero(coverage.any(axis=0))
        assert 50 <= np.ptp(rows) + 1 <= 112
        assert 50 <= np.ptp(columns) + 1 <= 112


def test_figures_of_one_size_differ() -> None:
    whole = [Placement(name, 400, 400, 60, 60, 0).coverage() >= FULL // 2 for name in NAMES]
    for first in range(len(NAMES)):
        for second in range(first):
            common, either = (whole[first] & whole[second]).sum(), (whole[first] | whole[second]).sum()
            assert common / either < 0.9, (NAMES[first], NAMES[second])


def test_area_of_a_disc_and_a_square() -> None:
    disc = Placement("circle", 400, 400, 60, 60, 30).coverage().sum() / FULL
    square = Placement("square", 400, 400, 60, 60, 30).coverage().sum() / FULL
    assert disc == pytest.approx(np.pi * (30 * 940 / 960) ** 2, rel=0.02)
    assert square == pytest.approx((60 * 800 / 960) ** 2, rel=0.02)


@pytest.mark.parametrize("kind", TEXTURES)
def test_textures_are_weights(kind: str) -> None:
    weight = texture(Stream(5), kind, 40, 60, 8)
    assert weight.shape == (40, 60)
    assert weight.min() >= 0
    assert weight.max() <= 256
    assert kind == "plain" or np.ptp(weight) > 60


def test_unknown_texture() -> None:
    with pytest.raises(ValueError, match="fur"):
        texture(Stream(5), "fur", 4, 4, 2)


def test_boxes_are_tight(pictures: list[Picture]) -> None:
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        for index, (x, y, w, h) in enumerate(picture.boxes()):
            mask = picture.owners == index
            assert x >= 0
            assert y >= 0
            assert x + w <= width
            assert y + h <= height
            assert mask[y : y + h, x : x + w].sum() == mask.sum() == picture.areas()[index]
            assert mask[y, :].any()
            assert mask[y + h - 1, :].any()
            assert mask[:, x].any()
            assert mask[:, x + w - 1].any()


def test_objects_stand_out(pictures: list[Picture]) -> None:
    """The mean colour of nearly every object differs from what is round it: an object is there to be found."""
    differences = []
    for picture in pictures:
        for index, (x, y, w, h) in enumerate(picture.boxes()):
            near = np.s_[max(y - 3, 0) : y + h + 3, max(x - 3, 0) : x + w + 3]
            mask, pixels = picture.owners[near] == index, picture.pixels[near].astype(np.float64)
            differences.append(np.abs(pixels[mask].mean(axis=0) - pixels[~mask].mean(axis=0)).max())
    assert np.percentile(differences, 2) > 25


def test_sizes_and_numbers(pictures: list[Picture]) -> None:
    assert {picture.pixels.shape[:2] for picture in pictures} <= set(IMAGE_SIZES)
    assert all(picture.pixels.dtype == np.uint8 for picture in pictures)
    counts = [len(picture.labels) for picture in pictures]
    assert max(counts) <= MOST_OBJECTS
    assert counts.count(0) <= 3 * EMPTY_PERCENT * len(pictures) // 100
    boxes = [box for picture in pictures for box in picture.boxes()]
    sides = np.array([max(w, h) for _, _, w, h in boxes])
    assert sides.min() >= 8
    assert sides.max() <= 240
    assert (sides < 16).mean() < 0.1
    assert np.bincount([label for picture in pictures for label in picture.labels]).min() > len(boxes) / 20

"""All images of a split in a few arrays: the same samples, and no objects of Python that grow with their number."""

from __future__ import annotations

import gc
import itertools
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.structures import LabelledImages, Sample, Samples

COUNTS = (2, 0, 1, 3)


def listed() -> list[Sample]:
    """Samples of COUNTS objects, with other values in every field."""
    rng = np.random.default_rng(0)
    return [
        Sample(
            Path(f"part {number}") / f"größe {number}.jpg",
            10**17 + number,
            60 + number,
            80,
            rng.random((count, 4)),
            rng.integers(9, size=count),
            rng.random(count) < 0.5,
        )
        for number, count in enumerate(COUNTS)
    ]


def same(one: Sample, other: Sample) -> bool:
    """Whether two samples agree in every value and type."""
    fields = ("path", "image_id", "height", "width")
    assert [type(getattr(one, name)) for name in fields] == [type(getattr(other, name)) for name in fields]
    equal = all(getattr(one, name) == getattr(other, name) for name in fields)
    arrays = [(getattr(one, name), getattr(other, name)) for name in ("boxes", "labels", "crowd")]
    return equal and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)


def test_no_samples_stay_none() -> None:
    none = Samples.of([])
    assert (len(none), list(none), none.paths(), len(none[:5])) == (0, [], [], 0)
    assert (none.boxes.shape, none.image_index().shape, none.ends.tolist()) == ((0, 4), (0,), [0])
    assert not LabelledImages(none, ("a",), (1,), {}).samples
    with pytest.raises(IndexError):
        none[0]


def test_samples_come_back_as_they_were() -> None:
    samples = Samples.of(listed())
    assert all(map(same, samples, listed()))
    assert same(samples[-1], listed()[-1])
    assert same(samples[np.int64(2)], listed()[2])
    assert samples.paths() == [sample.path for sample in listed()]
    assert samples.image_index().tolist() == [0, 0, 2, 3, 3, 3]
    assert Samples.of(samples) is samples
    for index in (len(COUNTS), -len(COUNTS) - 1):
        with pytest.raises(IndexError):
            samples[index]


@pytest.mark.parametrize(
    "part", [slice(1, 3), slice(None, None, -1), slice(None, None, 2), slice(9, 12), slice(-1, None)]
)
def test_a_slice_has_the_samples_of_a_slice_of_a_list(part: slice) -> None:
    found = Samples.of(listed())[part]
    assert isinstance(found, Samples)
    assert len(found) == len(listed()[part])
    assert all(map(same, found, listed()[part]))


def test_samples_go_to_another_process_whole() -> None:
    assert all(map(same, pickle.loads(pickle.dumps(Samples.of(listed()))), listed()))


def test_a_list_of_samples_becomes_samples() -> None:
    images = LabelledImages(tuple(listed()), ("a",), (1,), {})
    assert isinstance(images.samples, Samples)
    assert all(map(same, images.samples, listed()))


def test_twenty_thousand_images_are_a_few_objects() -> None:
    """A forked loader process copies each page with an object that it reads; only arrays stay shared."""
    count, each = 20_000, 8
    objects = np.zeros((count * each, 4)), np.zeros(count * each, np.int64), np.zeros(count * each, bool)
    paths = (Path(f"{number}.jpg") for number in range(count))
    gc.collect()
    before = sys.getallocatedblocks()
    sizes = np.full((count, 2), 640)
    images = LabelledImages(
        Samples.of_columns(paths, range(count), sizes, objects, np.full(count, each)), ("a",), (1,), {}
    )
    del sizes
    gc.collect()
    assert sys.getallocatedblocks() - before < 200
    for _ in itertools.repeat(None, 3):
        assert sum(len(sample.boxes) for sample in images.samples) == count * each
    gc.collect()
    assert sys.getallocatedblocks() - before < 200

"""Repeat factor sampling: the factors of the paper, what the sampler makes of them, and what the log says."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.balance import class_factors, class_images, describe_classes, rare_classes, repeat_factors
from data.config import load_data_config
from data.dataset import Request
from data.doctor import report as doctor
from data.doctor.page import to_html
from data.read import read_split
from data.sampler import TrainSampler
from tests.data.test_dataset import make
from tests.data.test_loader import batches, same
from tests.data.test_sampler import make_sampler
from utils.samples import Sample, Samples
from utils.structures import LabelledImages
from utils.tiles import Tiling


def split(*classes: list[int], crowd: frozenset[int] = frozenset(), names: int = 4) -> LabelledImages:
    """Images with objects of these classes; those of the classes `crowd` are crowd regions."""
    samples = [
        Sample(
            Path(f"{number}.jpg"), number, 10, 10,
            np.tile([1.0, 1, 5, 5], (len(labels), 1)),
            np.array(labels, np.int64),
            np.array([label in crowd for label in labels], bool),
        )
        for number, labels in enumerate(classes)
    ]  # fmt: skip
    return LabelledImages(Samples.of(samples), tuple("abcdef"[:names]), tuple(range(1, names + 1)), {})


def drawn(count: int, seed: int) -> LabelledImages:
    """Random images of a lopsided set of four classes, the last without an object."""
    rng = np.random.default_rng(seed)
    return split(*(rng.choice(3, rng.integers(4), p=[0.9, 0.08, 0.02]).tolist() for _ in range(count)))


@pytest.mark.parametrize("threshold", [None, 0.001, 0.3, 1.0])
def test_factors_are_those_of_the_paper(threshold: float | None) -> None:
    """r(c) = max(1, sqrt(t / f(c))), r(i) = max r(c) over the classes of the image: LVIS, appendix B."""
    images = drawn(900, 1)
    shown = [set(sample.labels.tolist()) for sample in images.samples]
    f = {c: sum(c in classes for classes in shown) / len(shown) for c in range(4)}
    assert max(f.values()) > 0.5, "the commonest is in more than 100 images"
    t = 100 / 900 if threshold is None else threshold
    r = {c: max(1.0, math.sqrt(t / f[c])) if f[c] else 1.0 for c in f}
    expected = [max([1.0, *(r[c] for c in classes)]) for classes in shown]
    found = repeat_factors(images, threshold)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found.max() > 1) == (threshold != 0.001)


def test_crowd_regions_and_images_without_objects_ask_for_nothing() -> None:
    images = split([0], [0], [0], [0, 1], [2], [], crowd=frozenset({2}))
    assert class_images(images).tolist() == [4, 1, 0, 0]
    factors = repeat_factors(images, 1.0)
    assert factors[5] == factors[4] == 1, "no object, or a crowd region alone"
    assert factors[3] == pytest.approx(math.sqrt(6)), "the rarer of its two classes"
    assert repeat_factors(split([0], [0, 1], []), None).tolist() == pytest.approx([1, math.sqrt(2), 1])
    assert repeat_factors(split([], []), None).tolist() == [1, 1]
    assert class_factors(np.zeros(3, int), 5).tolist() == [1, 1, 1]
    assert repeat_factors(split(), None).tolist() == []


REPEATS = np.array([1.0, 1.5, 3.25, 1.0, 2.0, 1.1])


def epoch_of(sampler: TrainSampler, epoch: int = 0) -> list[Request]:
    sampler.set_position(epoch)
    return [request for batch in sampler for request in batch]


def test_without_rare_classes_the_samples_are_those_of_no_balance() -> None:
    for count, batch_size in ((8, 3), (1, 5), (200, 16)):
        plain = make_sampler(count, batch_size=batch_size)
        even = make_sampler(count, batch_size=batch_size, repeats=np.ones(count))
        assert epoch_of(plain, 1) == epoch_of(even, 1)
        assert plain.total_steps(5) == even.total_steps(5)


def test_images_are_shown_as_often_as_their_factors_say_and_an_epoch_keeps_its_length() -> None:
    sampler = make_sampler(6, batch_size=1, repeats=REPEATS)
    wanted, total = REPEATS * 6 / REPEATS.sum(), np.zeros(6)
    for epoch in range(1500):
        sampler.set_position(epoch)
        assert sampler.times.sum() == 6
        assert ((sampler.times == np.floor(wanted)) | (sampler.times == np.ceil(wanted))).all()
        total += sampler.times
    np.testing.assert_allclose(total / 1500, wanted, atol=0.05)
    requests = epoch_of(sampler, 7)
    assert np.bincount([request.index for request in requests], minlength=6).tolist() == sampler.times.tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_no_two_samples_of_an_epoch_have_the_same_draws(batch_size: int) -> None:
    """The draws are those of (seed, epoch, index, repeat); a batch of 64 goes several times round the epoch."""
    requests = epoch_of(make_sampler(6, batch_size=batch_size, repeats=REPEATS), 3)
    keys = [(request.index, request.repeat) for request in requests]
    assert len(set(keys)) == len(keys)


def test_batch_size_ranks_and_resuming_change_nothing() -> None:
    repeats = np.random.default_rng(0).uniform(1, 3, 40)
    length = sum(make_sampler(40, repeats=repeats).times)
    orders = {
        size: [
            (request.index, request.repeat, request.partners)
            for request in epoch_of(make_sampler(40, batch_size=size, repeats=repeats))
        ][:length]
        for size in (1, 6, 32)
    }
    assert orders[1] == orders[6] == orders[32]
    whole = make_sampler(40, batch_size=6, repeats=repeats)
    whole.set_position(2)
    expected = list(whole)
    for world_size in (2, 3):
        ranks = [
            make_sampler(40, batch_size=6, repeats=repeats, rank=r, world_size=world_size) for r in range(world_size)
        ]
        for sampler in ranks:
            sampler.set_position(2)
        for batch, parts in zip(expected, zip(*ranks, strict=True), strict=True):
            assert [request for part in parts for request in part] == batch
    for start in range(len(expected) + 1):
        whole.set_position(2, start)
        assert list(whole) == expected[start:]


@pytest.mark.parametrize("count", [1, 6, 100, 999])
def test_an_epoch_keeps_its_length_for_any_factors(count: int) -> None:
    for seed in range(20):
        repeats = 10 ** np.random.default_rng(seed).uniform(0, 3, count)
        assert make_sampler(count, repeats=repeats, seed=seed).times.sum() == count


def test_workers_change_nothing(tiny_coco: Path) -> None:
    images = read_split(load_data_config(str(tiny_coco)), "train")
    options = {"repeats": 1.0 + np.arange(len(images)), "epoch": 1}
    expected = batches(make(images), **options)
    assert not all(map(same, expected, batches(make(images), epoch=1)))
    assert all(map(same, expected, batches(make(images), workers=2, **options)))
    assert all(map(same, expected[2:], batches(make(images), start=2, **options)))


def test_the_log_says_how_often_rare_classes_are_shown() -> None:
    images = drawn(200, 2)
    factors = repeat_factors(images)
    sampler = make_sampler(200, repeats=factors)
    shown = np.zeros(4)
    for epoch in range(100):
        sampler.set_position(epoch)
        for sample, times in zip(images.samples, sampler.times.tolist(), strict=True):
            shown[np.unique(sample.labels)] += times / 100
    (line,) = describe_classes(images, factors)
    found = re.findall(r"(\w) in (\d+) in place of (\d+)", line)
    assert [name for name, *_ in found] == ["c", "b"], "the rarest first"
    for name, often, count in found:
        assert int(count) == class_images(images)["abcd".index(name)]
        assert int(often) == pytest.approx(shown["abcd".index(name)], rel=0.05, abs=1)
    even = split(*([0, 1] for _ in range(16)))
    assert describe_classes(even, repeat_factors(even)) == []
    many = split(*([0, label] for label in range(1, 12)), *([0] for _ in range(50)), names=4)
    many = replace(many, names=tuple(f"n{number}" for number in range(12)))
    assert describe_classes(many, repeat_factors(many))[0].endswith(" and 6 more classes")


def test_without_balance_the_log_names_rare_classes_alone() -> None:
    images = split(*([0, 1] for _ in range(16)), [2])
    (line,) = describe_classes(images, None)
    assert line.startswith("rare classes: c in 1 of 17 images; --set balance=repeat")
    assert "c in 1 of 17 tiles; " in describe_classes(replace(images, tiling=Tiling(640)), None)[0]
    assert describe_classes(split([0], [1], [0, 1]), None) == []
    splits = {name: doctor.count(images) for name in ("train", "val")}
    found = doctor.Report("data.yaml", splits=splits)
    rare = "Rare: c in 1 of 17 images; training shows them more often"
    assert doctor.to_text(found).count(rare) == to_html(found).count(rare) == 1, "of the training split alone"
    assert rare_classes(("a", "b"), np.array([0, 0]), 0) == ""
    counts = np.array([400, *([1] * 7), *([400] * 9)])
    told = rare_classes([f"n{number}" for number in range(17)], counts, 400)
    assert told == "n1 in 1, n2 in 1, n3 in 1, n4 in 1, n5 in 1 and 2 more classes of 400"

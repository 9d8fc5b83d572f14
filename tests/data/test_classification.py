"""Training images of a classifier: crops, colours, mixing, and that each is a function of (seed, epoch, index)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.classification import ClassifyDataset, draw_parts, mix, random_colour, random_crop, random_factor, whole
from data.dataset import EvalDataset, Request
from data.images import read_image
from data.loader import build_eval_loader, build_train_loader, collate
from data.read import read_split
from data.sampler import SizePlan, TrainSampler
from data.transforms import FILL, resize_image
from tests.data.tiny_sets import make_config, make_image
from utils.augment_config import AugmentConfig, ClassifyAugment
from utils.boxes import plan_resize
from utils.structures import LabelledImages

PLAIN = ClassifyAugment(short_side=(1, 1), aspect=1, hue=0, saturation=1, exposure=1, flip_lr=0)
"""The image itself, cut to the input at a random place."""
SIZE = (32, 48)
KINDS = ("cutmix", "mixup", "mosaic")


@pytest.fixture
def images(tmp_path: Path) -> LabelledImages:
    """Six images of three classes and several sizes."""
    for number in range(6):
        height, width = ((60, 40), (40, 90), (20, 20))[number % 3]
        make_image(tmp_path / "train" / "abc"[number % 3] / f"{number}.png", height, width, seed=number)
    return read_split(make_config(tmp_path, "train: train"), "train", task="classify")


def dataset(images: LabelledImages, how: ClassifyAugment, **more: object) -> ClassifyDataset:
    return ClassifyDataset(images, AugmentConfig(classify=how, **more), image_size=SIZE, resize="crop", seed=3)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Crops and colours


def test_a_crop_at_scale_1_is_a_part_of_the_image() -> None:
    image = noise(40, 64)
    found = {random_crop(image, (40, 40), PLAIN, rng(seed)).tobytes() for seed in range(60)}
    parts = {image[:, x : x + 40].tobytes() for x in range(25)}
    assert found <= parts
    assert len(found) > 15, "every place comes up"


def test_a_small_image_lies_in_the_middle_of_grey() -> None:
    image = noise(20, 20)
    found = random_crop(image, (40, 60), replace(PLAIN, short_side=(0.5, 0.5)), rng())
    np.testing.assert_array_equal(found[10:30, 20:40], image)
    assert (found[:10] == FILL).all()
    assert (found[:, :20] == FILL).all()


def test_the_short_side_and_the_aspect_are_as_asked() -> None:
    image = np.full((50, 50, 3), 255, np.uint8)
    heights, ratios = [], []
    for seed in range(200):
        found = random_crop(image, (100, 100), replace(PLAIN, short_side=(0.2, 0.6), aspect=0.75), rng(seed))
        rows, columns = np.nonzero(found[:, :, 0] == 255)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        heights.append(min(height, width))
        ratios.append(width / height)
    assert 20 <= min(heights) < 25
    assert 55 < max(heights) <= 60
    assert 0.7 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.4
    assert 0.4 < np.mean(np.array(ratios) < 1) < 0.6


def test_rotation_turns_about_the_middle_of_the_crop() -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    image[48:53] = 255
    for seed in range(20):
        found = random_crop(image, (101, 101), replace(PLAIN, degrees=7), rng(seed))
        assert (found[50, 50] == 255).all()
        ends = [int(found[:, x, 0].astype(int).argmax()) for x in (5, 95)]
        assert abs(sum(ends) - 100) <= 6
        assert abs(ends[1] - ends[0]) <= 2 * 45 * np.tan(np.radians(7)) + 6
    a, b = (random_crop(noise(60, 60), (40, 40), replace(PLAIN, degrees=d), rng(1)).astype(int) for d in (1e-9, 0))
    assert np.abs(a - b).mean() < 40, "next to no angle is next to none"


def test_shrinking_takes_means() -> None:
    checkers = np.indices((80, 80)).sum(axis=0) % 2 * 255
    image = np.repeat(checkers.astype(np.uint8)[:, :, None], 3, axis=2)
    for found in (
        random_crop(image, (20, 20), PLAIN, rng()),
        resize_image(image, plan_resize(80, 80, (20, 20), "crop"), (20, 20), mode="crop"),
    ):
        assert (np.abs(found.astype(int) - 127) <= 1).all()


def test_factors_are_between_the_limits_and_as_often_above_one_as_below() -> None:
    values = np.array([random_factor(0.75, rng(seed)) for seed in range(500)])
    assert values.min() >= 0.75
    assert values.max() <= 1 / 0.75
    assert 0.4 < np.mean(values < 1) < 0.6
    assert random_factor(1.0, rng()) == 1


def test_colours_change_as_asked() -> None:
    image = np.full((4, 4, 3), (200, 60, 60), np.uint8)
    assert random_colour(image, PLAIN, rng()) is image
    before = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[0, 0].astype(int)
    for seed in range(40):
        hue = cv2.cvtColor(random_colour(image, replace(PLAIN, hue=0.1), rng(seed)), cv2.COLOR_RGB2HSV)[0, 0].astype(
            int
        )
        assert (hue[0] - before[0] + 90) % 180 - 90 in range(-19, 20)
        np.testing.assert_allclose(hue[1:], before[1:], atol=2)
        value = random_colour(image, replace(PLAIN, exposure=0.5), rng(seed)).astype(int)
        assert 99 <= value.max() <= 255
        np.testing.assert_allclose(value[0, 0, 1] / value[0, 0, 0], 0.3, atol=0.02)


# Mixing


@pytest.mark.parametrize("kind", KINDS)
def test_labels_have_the_shares_that_the_picture_shows(kind: str) -> None:
    """Each image is of one grey level, so that the mean of the result tells the shares."""
    for seed in range(30):
        parts = draw_parts(kind, SIZE, ClassifyAugment(mixup_beta=None if seed % 2 else 0.5), rng(seed))
        levels = (10, 90, 170, 250)[: len(parts)]
        items = [whole(np.full((*SIZE, 3), level, np.uint8), level) for level in levels]
        item = mix(items, parts, blend=kind == "mixup")
        assert item.weights.sum() == pytest.approx(1)
        assert (item.weights > 0).all()
        assert item.image.mean() == pytest.approx(float(item.weights @ item.labels), abs=0.6)
        assert len(item.labels) == (4 if kind == "mosaic" else 2)
        if kind == "mixup" and seed % 2:
            assert item.weights.tolist() == [0.5, 0.5]
        for box, label, share in zip(item.boxes, item.labels, item.weights, strict=True):
            x1, y1, x2, y2 = box.astype(int)
            area = (x2 - x1) * (y2 - y1) / (SIZE[0] * SIZE[1])
            if kind == "mosaic":
                assert share == pytest.approx(area)
                assert (item.image[y1:y2, x1:x2] == label).all()
                assert 0.15 < (x2 - x1) / SIZE[1] < 0.85
            elif kind == "cutmix" and label == 90:
                assert share == pytest.approx(area)
                assert (item.image[y1:y2, x1:x2] == label).all()
                assert 0.25 < (x2 - x1) / SIZE[1] <= 0.8


def test_mixing_leaves_its_sources_alone(images: LabelledImages) -> None:
    first, second = (whole(noise(*SIZE, seed=seed), seed) for seed in (1, 2))
    copies = first.image.copy(), second.image.copy()
    for kind in KINDS:
        parts = draw_parts(kind, SIZE, ClassifyAugment(), rng())
        mix([first, second, second, second][: len(parts)], parts, blend=kind == "mixup")
    np.testing.assert_array_equal(first.image, copies[0])
    np.testing.assert_array_equal(second.image, copies[1])


# The data set


def test_items_have_one_label_and_the_size_that_is_asked_for(images: LabelledImages) -> None:
    data = dataset(images, ClassifyAugment())
    item = data[Request(0, 4, (24, 40), mix=True)]
    assert item.image.shape == (3, 24, 40)
    assert item.image.dtype == torch.uint8
    assert (item.labels.tolist(), item.weights.tolist(), item.boxes.tolist()) == ([2], [1.0], [[0, 0, 40, 24]])
    assert item.path.endswith("2.png")


def test_a_sample_is_a_function_of_seed_epoch_and_index(images: LabelledImages) -> None:
    how = ClassifyAugment(degrees=7, blur=0.3, mix=["cutmix", "mosaic", "mixup"])
    options = {"albumentations": [{"type": "GaussNoise", "p": 0.5}]}
    one, two = dataset(images, how, **options), dataset(images, how, **options)
    two.fill_cache(limit_bytes=10**9)
    requests = [Request(epoch, index, SIZE, True) for epoch in range(3) for index in range(6)]
    first = {request: one[request] for request in requests}
    for request in reversed(requests):
        again = two[request]
        assert torch.equal(first[request].image, again.image), "memory and order change nothing"
        assert torch.equal(first[request].weights, again.weights)
    assert len({item.image.numpy().tobytes() for item in first.values()}) == len(requests)
    assert len({len(item.labels) for item in first.values()}) == 2
    repeated = one[replace(requests[0], repeat=1)]
    assert not torch.equal(repeated.image, first[requests[0]].image)


def test_large_images_are_kept_no_larger_than_needed(images: LabelledImages) -> None:
    data = dataset(images, ClassifyAugment(short_side=(0.5, 0.5)))
    data.fill_cache(limit_bytes=10**9)
    assert {image.shape[:2] for image in data.cache} == {(36, 24), (24, 54), (20, 20)}


def test_a_pipeline_may_change_the_size(images: LabelledImages) -> None:
    crop = [{"type": "CenterCrop", "height": 10, "width": 10}]
    assert dataset(images, PLAIN, albumentations=crop)[Request(0, 0, SIZE, False)].image.shape == (3, *SIZE)


def sampler(images: LabelledImages, **more: object) -> TrainSampler:
    options = {"batch_size": 3, "sizes": SizePlan(SIZE, 1), "mix_epochs": 2, "seed": 3, **more}
    return TrainSampler(len(images), **options)


def test_batches_are_mixed_as_often_as_asked(images: LabelledImages) -> None:
    order = sampler(images, mix_epochs=200, mix_share=0.5)
    mixed = []
    for epoch in range(200):
        order.set_position(epoch)
        for requests in order:
            assert len({request.mix for request in requests}) == 1, "a batch as a whole"
            mixed.append(requests[0].mix)
    assert 0.42 < np.mean(mixed) < 0.58
    order.set_position(7, 1)
    (later,) = list(order)
    order.set_position(7)
    assert list(order)[1] == later, "resuming in the middle draws the same"
    order.set_position(200)
    assert not any(request.mix for requests in order for request in requests)


def test_batches_are_the_same_with_any_number_of_workers(images: LabelledImages) -> None:
    data = dataset(images, ClassifyAugment(mix=["cutmix"]))
    batches = [list(build_train_loader(data, sampler(images, mix_share=0.5), workers=count)) for count in (0, 2)]
    for one, two in zip(*batches, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.targets.weights, two.targets.weights)
        assert torch.equal(one.targets.labels, two.targets.labels)
        sums = torch.zeros(len(one)).index_add_(0, one.targets.image_index, one.targets.weights)
        torch.testing.assert_close(sums, torch.ones(len(one)))
    moved = batches[0][0].to(torch.device("cpu")).targets
    assert torch.equal(moved.select(moved.image_index == 0).weights, moved.weights[moved.image_index == 0])


def test_detection_items_have_no_weights(images: LabelledImages) -> None:
    batch = collate([EvalDataset(images, image_size=SIZE, resize="letterbox")[0]])
    assert batch.targets.weights is None
    assert batch.targets.to(torch.device("cpu")).weights is None


# Evaluation


def test_evaluation_cuts_the_middle_out(images: LabelledImages) -> None:
    (batch, *_) = build_eval_loader(images, image_size=SIZE, resize="crop", batch_size=6, workers=0)
    assert batch.images.shape == (6, 3, *SIZE)
    assert batch.image_ids == (1, 2, 3, 4, 5, 6)
    tall, flat = read_image(images.samples[0].path), read_image(images.samples[2].path)
    assert (tall.shape[:2], flat.shape[:2]) == ((60, 40), (40, 90))
    enlarged = cv2.resize(tall, (48, 72), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0).numpy(), enlarged[20:52])
    shrunk = cv2.resize(flat, (72, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(batch.images[2].permute(1, 2, 0).numpy(), shrunk[:, 12:60])

"""Training samples are functions of (seed, epoch, index) alone; evaluation images are what inference sees."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data.config import load_data_config
from data.dataset import EvalDataset, Request, TrainDataset
from data.images import read_for_training, read_image
from data.items import Item, collate
from data.read import read_split
from data.sample_reader import REPLACED, check_size
from utils.augment_config import AugmentConfig
from utils.config import ConfigError
from utils.log import Progress
from utils.structures import LabelledImages, Sample

SIZE = (64, 64)
ALL = AugmentConfig(
    mosaic=0.6,
    mixup=0.5,
    degrees=10,
    shear=3,
    scale=0.5,
    flip_ud=0.5,
    albumentations=[{"type": "GaussNoise", "p": 0.7}, {"type": "RandomSizedBBoxSafeCrop", "height": 48, "width": 80}],
)
PLAIN = AugmentConfig(mosaic=0, translate=0, scale=0, flip_lr=0, hue=0, saturation=0, value=0, min_area=0, min_side=0)


@pytest.fixture(scope="module")
def images(tiny_coco: Path) -> LabelledImages:
    return read_split(load_data_config(str(tiny_coco)), "train")


def make(
    images: LabelledImages, config: AugmentConfig = ALL, *, seed: int = 0, resize: str = "letterbox"
) -> TrainDataset:
    return TrainDataset(images, config, image_size=SIZE, resize=resize, seed=seed)


def same(one: Item, two: Item) -> bool:
    tensors = all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
    return tensors and one[4:] == two[4:]


PARTNERS = (3, 6, 1, 4, 0, 7, 5)
REQUESTS = [
    Request(epoch, index, size, mix, repeat, tuple((partner + index) % 8 for partner in PARTNERS))
    for epoch, index, size, mix, repeat in (
        (0, 0, SIZE, True, 0),
        (0, 1, SIZE, True, 0),
        (3, 2, (96, 96), True, 0),
        (3, 5, (32, 64), False, 0),
        (9, 7, SIZE, True, 2),
    )
]


def test_a_sample_depends_on_seed_epoch_index_and_repeat_alone(images: LabelledImages) -> None:
    first = [make(images)[request] for request in REQUESTS]
    dataset = make(images)
    np.random.seed(1)  # noqa: NPY002 - the global generator must not matter
    again = [dataset[request] for request in reversed(REQUESTS)][::-1]
    assert all(map(same, first, again))
    base = REQUESTS[0]
    for other in (replace(base, epoch=1), replace(base, repeat=1), replace(base, index=3)):
        assert not torch.equal(dataset[other].image, dataset[base].image)
    assert not torch.equal(make(images, seed=1)[base].image, dataset[base].image)
    always = make(images, replace(ALL, mosaic=1.0))
    assert not torch.equal(always[replace(base, partners=(1,) * 7)].image, always[base].image)


def test_the_cache_changes_speed_only(images: LabelledImages) -> None:
    cached, plain = make(images), make(images)
    cached.fill_cache(limit_bytes=10**9)
    assert cached.cache is not None
    assert all(same(cached[request], plain[request]) for request in REQUESTS)
    too_large = make(images)
    too_large.fill_cache(limit_bytes=1000)
    assert too_large.cache is None


def test_augmentation_leaves_cache_and_labels_untouched(images: LabelledImages) -> None:
    dataset = make(images)
    dataset.fill_cache(limit_bytes=10**9)
    before = [image.copy() for image in dataset.cache]
    boxes = [sample.boxes.copy() for sample in images.samples]
    for request in REQUESTS:
        item = dataset[request]
        item.image.zero_()
        item.boxes.zero_()
        item.labels.fill_(7)
    assert all(np.array_equal(a, b) for a, b in zip(before, dataset.cache, strict=True))
    assert all(np.array_equal(a, sample.boxes) for a, sample in zip(boxes, images.samples, strict=True))
    labels = np.concatenate([sample.labels for sample in images.samples])
    assert set(labels.tolist()) == {0, 1}


def test_a_batch_is_what_its_items_are_one_by_one(images: LabelledImages) -> None:
    """Images that the last samples had are read once, and what was wrong with them is told with each."""
    requests = [replace(request, size=SIZE) for request in REQUESTS]
    dataset = make(images)
    batch, single = dataset.__getitems__(requests), collate([make(images)[request] for request in requests])
    assert torch.equal(batch.images, single.images)
    assert batch.images.is_contiguous()
    for name, values in vars(batch.targets).items():
        other = getattr(single.targets, name)
        assert values is other is None or torch.equal(values, other)
    assert (batch.image_ids, batch.paths, batch.problems) == (single.image_ids, single.paths, single.problems)


def test_each_image_of_a_block_is_read_once(images: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path, **options: list[str]) -> np.ndarray:
        read.append(path)
        return read_for_training(path, **options)

    monkeypatch.setattr("data.sample_reader.read_for_training", counted)
    dataset = make(images, replace(ALL, mosaic=1.0, mixup=1.0))
    dataset.__getitems__([Request(0, index, SIZE, True, partners=PARTNERS) for index in range(8)])
    assert sorted(read) == sorted(sample.path for sample in images.samples)


def test_the_images_that_are_kept_have_a_bound_in_bytes(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller bound changes what is read again, and no sample."""
    requests = [replace(request, size=SIZE) for request in REQUESTS]
    roomy = make(images)
    expected = roomy.__getitems__(requests)
    largest = max(item.image.nbytes for item, _, _ in roomy.recent.values())
    monkeypatch.setattr("data.dataset.RECENT_BYTES", 2 * largest)
    dataset = make(images)
    assert torch.equal(dataset.__getitems__(requests).images, expected.images)
    assert 0 < sum(item.image.nbytes for item, _, _ in dataset.recent.values()) == dataset.recent_bytes <= 2 * largest
    assert dataset.recent_bytes < roomy.recent_bytes


def test_what_is_wrong_with_an_image_is_told_with_every_sample_of_it(spoiled: LabelledImages) -> None:
    dataset = skipping(spoiled, replace(PLAIN, mosaic=1.0))
    items = [dataset[Request(0, 1, SIZE, True, partners=(2, 4, 5))] for _ in range(2)]
    assert same(*items)
    assert items[0].problem.count("no such image file") == 2


def test_what_a_cut_off_file_has_to_say_goes_with_every_sample_of_it(tmp_path: Path) -> None:
    picture = Image.effect_noise((640, 480), 50).convert("RGB")
    picture.save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-3])
    sample = Sample(tmp_path / "a.jpg", 1, 480, 640, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    dataset = make(LabelledImages((sample,), ("a",), (1,), {}), PLAIN)
    items = [dataset[Request(0, 0, SIZE, False)] for _ in range(2)]
    assert same(*items)
    assert len(items[0].notes) == 1
    assert "a.jpg: the file is cut off" in items[0].notes[0]


@pytest.mark.parametrize("cached", [False, True])
def test_large_photos_are_the_same_with_and_without_the_cache(tmp_path: Path, cached: bool) -> None:
    rows, columns = np.mgrid[:200, :300]
    waves = 128 + 100 * np.stack([np.sin(rows / 30), np.sin(columns / 30), np.cos((rows + columns) / 40)], axis=2)
    Image.fromarray(waves.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    sample = Sample(tmp_path / "a.jpg", 1, 200, 300, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    dataset = make(LabelledImages((sample,), ("a",), (1,), {}), PLAIN)
    if cached:
        dataset.fill_cache(limit_bytes=10**9)
    _, image = dataset.image_at(0)
    assert np.array_equal(image, cv2.resize(read_image(sample.path), (64, 43))), "as evaluation shrinks them"
    wrong = replace(dataset.images, samples=(replace(sample, height=100, width=150),))
    with pytest.raises(ValueError, match="the labels say 150 x 100 pixels, the upright image has 300 x 200"):
        make(wrong, PLAIN).image_at(0)


def test_a_dataset_goes_to_a_spawned_process_and_back(images: LabelledImages) -> None:
    dataset = make(images)
    dataset.fill_cache(limit_bytes=10**9)
    copy = pickle.loads(pickle.dumps(dataset))
    assert all(same(copy[request], dataset[request]) for request in REQUESTS)


@pytest.mark.parametrize("config", [ALL, PLAIN, replace(ALL, albumentations=[]), replace(ALL, mosaic=1.0, mixup=1.0)])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_items_have_the_size_that_was_asked_for_and_boxes_inside(
    images: LabelledImages, config: AugmentConfig, resize: str
) -> None:
    dataset = make(images, config, resize=resize)
    for request in REQUESTS:
        item = dataset[request]
        assert item.image.dtype == torch.uint8
        assert item.image.shape == (3, *request.size)
        assert item.boxes.dtype == torch.float32
        assert item.labels.dtype == torch.int64
        assert item.crowd.dtype == torch.bool
        assert len(item.boxes) == len(item.labels) == len(item.crowd)
        assert (item.boxes >= 0).all()
        assert (item.boxes[:, 2:] > item.boxes[:, :2]).all()
        assert (item.boxes[:, 2] <= request.size[1]).all()
        assert (item.boxes[:, 3] <= request.size[0]).all()
        assert item.image_id == images.samples[request.index].image_id


def test_without_augmentation_training_sees_what_evaluation_sees(images: LabelledImages) -> None:
    """Up to half a pixel: an odd margin cannot be halved in whole pixels."""
    train, evaluation = make(images, PLAIN), EvalDataset(images, image_size=SIZE, resize="letterbox")
    for index in range(len(images)):
        one, two = train[Request(0, index, SIZE, False)], evaluation[index]
        assert torch.equal(one.labels, two.labels)
        assert torch.equal(one.crowd, two.crowd)
        torch.testing.assert_close(one.boxes, two.boxes, atol=0.51, rtol=0)
        assert (one.image.float() - two.image.float()).abs().mean() < 12


def test_mosaic_and_mixup_stop_when_they_are_told_to(images: LabelledImages) -> None:
    config = replace(PLAIN, mosaic=1.0, mixup=1.0)
    dataset = make(images, config)
    single = make(images, PLAIN)
    closed = dataset[Request(0, 4, SIZE, False)]
    assert same(closed, single[Request(0, 4, SIZE, False)])
    assert not torch.equal(dataset[Request(0, 4, SIZE, True, partners=PARTNERS)].image, closed.image)


def test_the_two_images_of_a_mixup_are_not_the_same_augmentation(images: LabelledImages) -> None:
    """An image may be drawn as its own partner; it is then augmented in another way."""
    one = replace(images, samples=images.samples[2:3])
    dataset = make(one, replace(PLAIN, mixup=1.0, scale=0.3, translate=0.2))
    boxes = dataset[Request(0, 0, SIZE, True, partners=(0,) * 7)].boxes
    count = len(one.samples[0].boxes)
    assert len(boxes) == 2 * count
    assert (boxes[:count] - boxes[count:]).abs().max() > 1


def test_evaluation_images_come_with_the_way_back(images: LabelledImages) -> None:
    for resize in ("letterbox", "stretch"):
        dataset = EvalDataset(images, image_size=(64, 96), resize=resize)
        for index, sample in enumerate(images.samples):
            item = dataset[index]
            assert item.image.shape == (3, 64, 96)
            np.testing.assert_allclose(item.letterbox.invert(item.boxes.numpy()), sample.boxes, atol=1e-3)
            assert (item.image_id, item.path) == (sample.image_id, str(sample.path))


def test_an_image_of_another_size_than_its_labels_is_refused(images: LabelledImages) -> None:
    sample = images.samples[1]
    image = read_image(sample.path)
    check_size(image.shape[:2], sample.height, sample.width, "x")
    turned = replace(sample, height=sample.width, width=sample.height)
    wrong = replace(images, samples=(turned,))
    message = r"1.png: the labels say 96 x 72 pixels, the upright image has 72 x 96; .*EXIF"
    with pytest.raises(ValueError, match=message):
        make(wrong)[Request(0, 0, SIZE, False)]
    with pytest.raises(ValueError, match=message):
        EvalDataset(wrong, image_size=SIZE, resize="letterbox")[0]
    with pytest.raises(ValueError, match=message):
        make(wrong).fill_cache(limit_bytes=10**9)


def test_a_wrong_transform_is_told_when_the_set_is_made(images: LabelledImages) -> None:
    with pytest.raises(ConfigError, match=r"augment.albumentations\[0\].*'GaussNoise'"):
        make(images, replace(ALL, albumentations=[{"type": "GausNoise"}]))


# Files that cannot be read


@pytest.fixture
def spoiled(images: LabelledImages, tmp_path: Path) -> LabelledImages:
    """The images with numbers 2 and 3 on a disk that is gone."""
    bad = [replace(sample, path=tmp_path / sample.path.name) for sample in images.samples]
    samples = tuple(bad[place] if place in (2, 3) else sample for place, sample in enumerate(images.samples))
    return replace(images, samples=samples)


def skipping(images: LabelledImages, config: AugmentConfig = PLAIN) -> TrainDataset:
    return TrainDataset(images, config, image_size=SIZE, resize="letterbox", seed=0, bad_images="skip")


def test_a_bad_file_stops_and_names_the_other_way(spoiled: LabelledImages) -> None:
    with pytest.raises(ValueError, match=r"2.png: no such image file; put it back, and --resume goes on exactly"):
        make(spoiled)[Request(0, 2, SIZE, False)]
    with pytest.raises(ValueError, match=r"2.png: no such image file"):
        make(spoiled).fill_cache(limit_bytes=10**9)
    with pytest.raises(ValueError, match=r"2.png: no such image file"):
        EvalDataset(spoiled, image_size=SIZE, resize="letterbox")[2]


def test_the_remedies_are_true(images: LabelledImages, tmp_path: Path) -> None:
    """A file whose header is gone, or says another size, would be left out at --resume: another data set."""
    whole = images.samples[2].path.read_bytes()
    sample = replace(images.samples[2], path=tmp_path / "x.png")
    dataset = make(replace(images, samples=(sample,)))
    skip = "train without such files: --set bad_images=skip (for --resume: bad_images: skip in the run's config.yaml)"
    for data, remedy in (
        (whole[: len(whole) // 2], f"a new run takes any; or {skip}"),
        (b"", REPLACED),
        (None, REPLACED),
    ):
        if data is None:
            Image.new("RGB", (10, 11)).save(sample.path)
        else:
            sample.path.write_bytes(data)
        with pytest.raises(ValueError, match="only with the files that the run began with") as caught:
            dataset[Request(0, 0, SIZE, False)]
        assert str(caught.value).endswith(remedy)


@pytest.mark.parametrize("cached", [False, True])
def test_another_image_takes_the_place_of_a_bad_one(
    images: LabelledImages, spoiled: LabelledImages, cached: bool
) -> None:
    dataset, good = skipping(spoiled), make(images, PLAIN)
    if cached:
        dataset.fill_cache(limit_bytes=10**9)
    item, other = dataset[Request(0, 2, SIZE, False)], good[Request(0, 4, SIZE, False)]
    assert torch.equal(item.image, other.image)
    assert torch.equal(item.boxes, other.boxes)
    told = item.problem.splitlines()
    assert [line.rpartition("/")[2] for line in told] == ["2.png: no such image file", "3.png: no such image file"]
    again = dataset[Request(0, 1, SIZE, False)]
    assert again.problem == "", "each problem goes with its own item"
    assert same(again, good[Request(0, 1, SIZE, False)])


def test_mixing_does_not_mind(spoiled: LabelledImages) -> None:
    dataset = skipping(spoiled, replace(ALL, mosaic=1.0, mixup=1.0))
    requests = [Request(1, index, SIZE, True, partners=PARTNERS) for index in range(8)]
    items = [dataset[request] for request in requests]
    assert all(item.image.shape == (3, *SIZE) for item in items)
    assert all(same(item, dataset[request]) for item, request in zip(items, requests, strict=True))


def test_a_whole_set_that_is_gone_is_not_skipped(images: LabelledImages, tmp_path: Path) -> None:
    gone = tuple(replace(sample, path=tmp_path / sample.path.name) for sample in images.samples)
    with pytest.raises(ValueError, match=r"no such image file; the 19 images before it cannot be read either"):
        skipping(replace(images, samples=gone))[Request(0, 0, SIZE, False)]


def test_evaluation_has_grey_in_place_of_a_bad_image(images: LabelledImages, spoiled: LabelledImages) -> None:
    dataset = EvalDataset(spoiled, image_size=SIZE, resize="letterbox", bad_images="skip")
    good = EvalDataset(images, image_size=SIZE, resize="letterbox")
    item, real = dataset[2], good[2]
    assert bool((item.image == 114).all())
    assert item.problem.endswith("2.png: no such image file")
    assert (item.image_id, item.letterbox) == (real.image_id, real.letterbox)
    assert same(dataset[1], good[1])


def test_evaluation_names_the_key_where_there_is_a_recipe(spoiled: LabelledImages) -> None:
    for bad_images, said in (("stop", "; put it back"), (None, "no such image file$")):
        dataset = EvalDataset(spoiled, image_size=SIZE, resize="letterbox", bad_images=bad_images)
        with pytest.raises(ValueError, match=said):
            dataset[2]


def test_a_copy_for_another_process_is_without_the_images(images: LabelledImages) -> None:
    dataset = make(images)
    dataset.fill_cache(limit_bytes=10**9)
    assert pickle.loads(pickle.dumps(dataset)).cache is None
    assert dataset.cache is not None


def test_reading_a_large_set_shows_how_far_it_is(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("utils.log.Progress", lambda *args, **kwargs: Progress(*args, **kwargs, every=-1.0))
    with caplog.at_level(logging.INFO):
        make(images).fill_cache(limit_bytes=10**9)
    assert "Reading the training images: 1/8, " in caplog.text
    assert "Training images in memory: 8, " in caplog.text

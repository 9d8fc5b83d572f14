"""The splits of a data set that a training works with."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader

from data.anchors import object_sizes
from data.classification import ClassifyDataset
from data.config import check_objects, check_same_classes, load_data_config, read_split, summarize
from data.dataset import TrainDataset
from data.images import read_image
from data.loader import CACHE_BYTES, TrainSampler, build_eval_loader, build_train_loader, workers_share_memory
from data.sizes import SizePlan
from data.transforms import ten_crop_size
from utils.provenance import data_fingerprint
from utils.structures import LabelledImages, Sample
from utils.train_config import TrainConfig

logger = logging.getLogger(__name__)

SMALL_SHARE = 0.05
"""Share of the objects that may be too small to be trained on without a warning."""


@dataclass(frozen=True)
class DataSplits:
    """Training and validation images of one data YAML.

    Args:
        source: the YAML's path, or 'shapes'.
    """

    train: LabelledImages
    val: LabelledImages
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.train.names

    def class_counts(self) -> tuple[int, ...]:
        """Objects of each class in the training split, without crowd regions."""
        labels = [sample.labels[~sample.crowd] for sample in self.train.samples]
        counts = np.bincount(np.concatenate(labels), minlength=len(self.names)) if labels else np.zeros(len(self.names))
        return tuple(int(count) for count in counts)

    @property
    def task(self) -> Literal["detect", "classify"]:
        """What the labels are for."""
        return self.train.task

    def shown(self, count: int) -> Sequence[Sample]:
        """Validation images for a picture: the first; of a classifier's, sorted by class, some of each."""
        samples = self.val.samples
        return samples[:: max(len(samples) // count, 1)][:count] if self.task == "classify" else samples[:count]

    def pictures(self, count: int) -> Iterator[tuple[Sample, np.ndarray]]:
        """The samples of `shown` with their images (H, W, 3) uint8 RGB, but for those that cannot be read."""
        for sample in self.shown(count):
            try:
                image = read_image(sample.path)
            except ValueError:  # whoever needed it has told so
                continue
            yield sample, image

    def about(self) -> dict[str, Any]:
        """Classes and task, in plain values."""
        names, ids = list(self.names), list(self.train.category_ids)
        return {"names": names, "category_ids": ids, "task": self.task, "class_counts": list(self.class_counts())}

    def fingerprint(self) -> dict[str, str]:
        """By split, what tells other images or labels from these."""
        return {"train": data_fingerprint(self.train), "val": data_fingerprint(self.val)}

    def counts(self) -> str:
        """How much there is, for people."""
        boxes = sum(len(sample.boxes) for sample in self.train.samples)
        objects = f" with {boxes} boxes" if self.task == "detect" else ""
        return f"{len(self.train)} training images{objects}, {len(self.val)} validation images"


def read_splits(source: str, task: Literal["detect", "classify"] = "detect") -> DataSplits:
    """The training and validation split, with every bad label told.

    Args:
        task: of the model that they are for.
    Raises:
        ConfigError: a split that is missing, has no image or is for another task, two splits with other classes, or
            not one object to train on.
    """
    config = load_data_config(source)
    splits = {split: read_split(config, split, task=task) for split in ("train", "val")}
    for split, images in splits.items():
        if images.problems:
            logger.warning("%s: %s", split, summarize(images.problems))
    check_same_classes(splits["train"], splits["val"])
    check_objects(splits["train"], f"{source}: train: there is nothing to learn")
    # Only validation needs its ground truth; COCO's segmentations would fill the memory of every loader process.
    return DataSplits(replace(splits["train"], ground_truth={}), splits["val"], source)


def train_set_of(images: LabelledImages, config: TrainConfig) -> TrainDataset | ClassifyDataset:
    """The augmented images of a run, in memory if the recipe wants that and they fit."""
    recipe = config.recipe
    kind = ClassifyDataset if images.task == "classify" else TrainDataset
    options = {"image_size": config.image_size, "resize": config.model["resize"], "bad_images": recipe.bad_images}
    dataset = kind(images, recipe.augment, seed=config.seed, **options)
    if images.task == "detect":
        warn_of_small_objects(images, config)
    if recipe.cache and workers_share_memory(config.workers):
        dataset.fill_cache(limit_bytes=CACHE_BYTES)
    elif recipe.cache:
        logger.info("Images are not kept in memory: loader processes of this system cannot share it (--workers 0 can)")
    return dataset


def warn_of_small_objects(images: LabelledImages, config: TrainConfig) -> None:
    """Say so where many objects are so small in the network's input that the augmentation leaves them out."""
    least, (height, width) = config.recipe.augment.min_side, config.image_size
    small = (object_sizes(images, config.image_size, config.model["resize"]) <= least).any(axis=1)
    if small.sum() > SMALL_SHARE * len(small):
        logger.warning(
            "%d of %d training objects are no more than %g pixels wide or high in an input of %d x %d; unless the "
            "augmentation enlarges them they are left out, and little is learned of them. Take a larger --img-size, or "
            "lower augment.min_side",
            small.sum(),
            len(small),
            least,
            height,
            width,
        )


def train_loader_of(
    dataset: TrainDataset | ClassifyDataset,
    config: TrainConfig,
    *,
    stride: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader:
    """Augmented batches of a run; its `batch_sampler` is the TrainSampler.

    Args:
        stride: of the model; image sizes are multiples of it.
    """
    recipe = config.recipe
    classify = isinstance(dataset, ClassifyDataset)
    sampler = TrainSampler(
        len(dataset),
        batch_size=recipe.batch_size,
        sizes=size_plan_of(config, stride=stride),
        mix_epochs=recipe.mosaic_epochs,
        mix_share=recipe.augment.classify.mix_share if classify else 1.0,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
    )
    options = {"workers": config.workers, "pin_memory": pin_memory, "timeout": recipe.worker_timeout}
    return build_train_loader(dataset, sampler, **options)


def size_plan_of(config: TrainConfig, *, stride: int) -> SizePlan:
    """The input sizes of a run."""
    recipe, augment = config.recipe, config.recipe.augment
    return SizePlan(
        image_size=config.image_size,
        stride=stride,
        multi_scale=augment.multi_scale,
        kind=augment.multi_scale_type,
        steps=augment.multi_scale_steps,
        accumulate=recipe.accumulate,
        dynamic=recipe.dynamic_batch,
        epochs=recipe.total_epochs,
        seed=config.seed,
    )


def eval_loader_of(images: LabelledImages, config: TrainConfig, *, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Batches of a split as at inference, or a little larger for a test by ten crops."""
    size = config.image_size
    return build_eval_loader(
        images,
        image_size=ten_crop_size(size) if config.recipe.evaluation.ten_crop else size,
        resize=config.model["resize"],
        batch_size=config.recipe.batch_size,
        workers=config.workers,
        rank=rank,
        world_size=world_size,
        timeout=config.recipe.worker_timeout,
        bad_images=config.recipe.bad_images,
    )

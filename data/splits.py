"""The splits of a data set that a training works with."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from torch.utils.data import DataLoader

from data.config import check_same_classes, load_data_config, read_split, summarize
from data.dataset import TrainDataset
from data.loader import CACHE_BYTES, TrainSampler, build_eval_loader, build_train_loader
from utils.structures import LabelledImages
from utils.training.config import TrainConfig

logger = logging.getLogger(__name__)


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


def read_splits(source: str) -> DataSplits:
    """The training and validation split, with every bad label told.

    Raises:
        ConfigError: a split that is missing or has no image, or two splits with other classes.
    """
    config = load_data_config(source)
    splits = {split: read_split(config, split) for split in ("train", "val")}
    for split, images in splits.items():
        if images.problems:
            logger.warning("%s: %s", split, summarize(images.problems))
    check_same_classes(splits["train"], splits["val"])
    # Only validation needs its ground truth; COCO's segmentations would fill the memory of every loader process.
    return DataSplits(replace(splits["train"], ground_truth={}), splits["val"], source)


def train_loader_of(
    images: LabelledImages,
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
    recipe, size = config.recipe, config.image_size
    dataset = TrainDataset(images, recipe.augment, image_size=size, resize=config.model["resize"], seed=config.seed)
    if recipe.cache:
        dataset.fill_cache(limit_bytes=CACHE_BYTES)
    sampler = TrainSampler(
        len(dataset),
        batch_size=recipe.batch_size,
        image_size=size,
        multi_scale=recipe.augment.multi_scale,
        stride=stride,
        mix_epochs=recipe.mosaic_epochs,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
    )
    return build_train_loader(dataset, sampler, workers=config.workers, pin_memory=pin_memory)


def eval_loader_of(images: LabelledImages, config: TrainConfig, *, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Batches of a split as at inference."""
    return build_eval_loader(
        images,
        image_size=config.image_size,
        resize=config.model["resize"],
        batch_size=config.recipe.batch_size,
        workers=config.workers,
        rank=rank,
        world_size=world_size,
    )

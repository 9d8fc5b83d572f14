"""Batches: the training set of a recipe, collation, and the loaders of training and evaluation."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from data.anchors import object_sizes
from data.balance import repeat_factors
from data.classification import ClassifyDataset
from data.dataset import EvalDataset, TrainDataset
from data.items import collate
from data.sampler import SizePlan, TrainSampler, least_padding
from data.tiles import evaluation_tiles
from data.transforms import ten_crop_size
from data.watched_loader import WatchedLoader
from utils.config import ConfigError
from utils.structures import Batch, LabelledImages
from utils.tiles import Grid
from utils.torchrun import launched_size, local_ranks
from utils.train_config import TrainConfig

logger = logging.getLogger(__name__)

CACHE_BYTES = 1_500_000_000
"""Training sets up to this size (at the network's resolution) are kept in memory; the local ranks divide it."""

MOST_EVALUATED = 32
"""Images of a batch in evaluation; larger ones take memory and bring no speed."""

SMALL_SHARE = 0.05
"""Share of the objects that may be too small to be trained on without a warning."""

SHARED_MEMORY = Path("/dev/shm")
"""Where loader processes put their batches, on Linux."""


def workers_share_memory(workers: int) -> bool:
    """Whether loader processes share the memory of the dataset: forked ones do, others get a copy."""
    return workers == 0 or multiprocessing.get_start_method() == "fork"


def prefetch_factor(workers: int, batch_bytes: int, *, wanted: int, share: float) -> int | None:
    """Batches that each loader process prepares ahead: `wanted`, or fewer if shared memory is small.

    Args:
        share: of the free shared memory that this loader may use.
    Raises:
        ConfigError: not even one batch per process fits.
    """
    if workers == 0:
        return None
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # shared memory is elsewhere on this system
        return wanted
    needed = batch_bytes * workers * local_ranks()
    if needed > share * free:
        sizes = f"has {free / 1e6:,.1f} MB free and needs {needed / share / 1e6:,.1f} MB"
        raise ConfigError(
            f"--workers {workers}: loader processes hand batches over in {SHARED_MEMORY}, which {sizes}; give it more "
            f"(docker run --shm-size=8g, or mount -o remount,size=8g {SHARED_MEMORY}), or use fewer --workers (0 needs "
            "none)"
        )
    return min(int(share * free / needed), wanted)


def train_set_of(images: LabelledImages, config: TrainConfig) -> TrainDataset | ClassifyDataset:
    """The augmented training images of a run, cached in memory if the recipe says so and they fit."""
    recipe = config.recipe
    kind = ClassifyDataset if images.task == "classify" else TrainDataset
    dataset = kind(
        images,
        recipe.augment,
        image_size=config.image_size,
        resize=config.model["resize"],
        seed=config.seed,
        bad_images=recipe.bad_images,
    )
    if images.task == "detect":
        warn_of_small_objects(images, config)
    if recipe.cache and workers_share_memory(config.workers):
        dataset.fill_cache(limit_bytes=CACHE_BYTES // local_ranks())
    elif recipe.cache:
        logger.info("Images are not kept in memory: loader processes of this system cannot share it (--workers 0 can)")
    return dataset


def warn_of_small_objects(images: LabelledImages, config: TrainConfig) -> None:
    """Log a warning if many objects are so small in the network input that the augmentation drops them."""
    least, (height, width) = config.recipe.augment.min_side, config.image_size
    small = np.any(object_sizes(images, config.image_size, config.model["resize"]) <= least, axis=1)
    if small.sum() > SMALL_SHARE * len(small):
        logger.warning(
            "%d of %d training objects are no more than %g pixels wide or high in an input of %d x %d; unless the "
            "augmentation enlarges them they are left out, and little is learned of them. Take a larger --img-size, or "
            "lower augment.min_side",
            *(small.sum(), len(small), least, height, width),
        )


def train_loader_of(
    dataset: TrainDataset | ClassifyDataset,
    config: TrainConfig,
    *,
    stride: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> WatchedLoader:
    """Augmented batches of a run; its `batch_sampler` is the TrainSampler.

    Args:
        stride: of the model; image sizes are multiples of it.
    """
    recipe, augment = config.recipe, config.recipe.augment
    sizes = SizePlan(
        config.image_size,
        stride,
        multi_scale=augment.multi_scale,
        kind=augment.multi_scale_type,
        steps=augment.multi_scale_steps,
        accumulate=recipe.accumulate,
        dynamic=recipe.dynamic_batch,
        epochs=recipe.total_epochs,
        seed=config.seed,
    )
    sampler = TrainSampler(
        len(dataset),
        batch_size=recipe.batch_size,
        sizes=sizes,
        mix_epochs=recipe.mosaic_epochs,
        mix_share=augment.classify.mix_share if isinstance(dataset, ClassifyDataset) else 1.0,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        repeats=repeat_factors(dataset.images, recipe.balance_threshold) if recipe.balance == "repeat" else None,
        files=None if dataset.images.samples.tiles is None else dataset.images.samples.image_ids,
    )
    workers, timeout = config.workers, recipe.worker_timeout
    return build_train_loader(dataset, sampler, workers=workers, pin_memory=pin_memory, timeout=timeout)


def eval_loader_of(images: LabelledImages, config: TrainConfig, *, rank: int = 0, world_size: int = 1) -> WatchedLoader:
    """Batches of a split as at inference, or a little larger for evaluation with ten crops.

    A batch has as many images as one process trains at a time, at most `MOST_EVALUATED`, also where rank 0 evaluates
    alone: `rank` and `world_size` only say which images are this loader's. Where loader processes take long to start,
    they stay for the next evaluation: `end` ends them.
    """
    size = config.image_size
    return build_eval_loader(
        images,
        image_size=ten_crop_size(size) if config.recipe.evaluation.ten_crop else size,
        resize=config.model["resize"],
        batch_size=min(-(-config.recipe.batch_size // max(world_size, launched_size())), MOST_EVALUATED),
        workers=config.workers,
        rank=rank,
        world_size=world_size,
        timeout=config.recipe.worker_timeout,
        bad_images=config.recipe.bad_images,
        grid=images.tiling.grid if images.tiling else None,
        keep=not workers_share_memory(config.workers),
    )


def build_train_loader(
    dataset: TrainDataset, sampler: TrainSampler, *, workers: int, pin_memory: bool = False, timeout: float = 0.0
) -> WatchedLoader:
    """Batches of the sampler's epoch from its position on; set_position takes effect at the next iter().

    Args:
        timeout: seconds to wait for a batch from a worker; 0 waits forever.
    """
    height, width = sampler.sizes.largest
    batch_bytes = 3 * height * width * -(-sampler.batch_size // sampler.world_size)
    return WatchedLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=as_it_is,  # the dataset gives whole batches
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(sampler.seed),
        persistent_workers=workers > 0,
        prefetch_factor=prefetch_factor(workers, batch_bytes, wanted=4, share=0.6),
        patience=timeout,
    )


def as_it_is(batch: Batch) -> Batch:
    """The batch itself."""
    return batch


def build_eval_loader(
    images: LabelledImages,
    *,
    image_size: tuple[int, int],
    resize: str,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    timeout: float = 0.0,
    bad_images: Literal["stop", "skip"] | None = None,
    stride: int | None = None,
    grid: Grid | None = None,
    keep: bool = False,
) -> WatchedLoader:
    """Every image once, in order; with several ranks each takes every `world_size`-th image.

    Args:
        grid: give the tiles of each image, one after another, instead of the image.
        stride: letterbox with the least padding of whole strides, in an order of its own; in one process.
        timeout: as in `build_train_loader`.
        bad_images: as in EvalDataset.
        keep: let loader processes wait for the next evaluation.
    """
    chosen = images.samples if world_size == 1 else images.samples[rank::world_size]
    images = replace(images, samples=chosen, ground_truth={})  # the metric's alone; loader processes would get a copy
    images = images if grid is None else evaluation_tiles(images, grid)
    dataset = EvalDataset(images, image_size=image_size, resize=resize, bad_images=bad_images)
    batch_bytes = 3 * image_size[0] * image_size[1] * batch_size
    order: dict[str, Any] = {"batch_size": batch_size, "sampler": range(len(dataset))}
    if stride is not None:
        order = {"batch_sampler": least_padding(images.samples.sizes, image_size, stride, batch_size, resize)}
    return WatchedLoader(
        dataset,
        **order,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(0),
        persistent_workers=keep and workers > 0,
        prefetch_factor=prefetch_factor(workers, batch_bytes, wanted=2, share=0.3),
        patience=timeout,
    )

"""Some training images that are evaluated beside val now and then: does what is learned carry over?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data.formats.assemble import to_coco
from data.loader import eval_loader_of
from data.watched_loader import WatchedLoader
from utils.metrics.build import build_metric
from utils.metrics.detection import DetectionMetric
from utils.recipe import RecipeConfig
from utils.structures import LabelledImages
from utils.train_config import TrainConfig

TIMES = 10
"""How often in a run the sample is evaluated, about."""

SHARE = 0.03
"""Of the images that a run trains on, those that it may evaluate so: an image takes no longer than in training."""

FEWEST, MOST = 8, 500
"""Images of a sample; of fewer, AP says too little."""

STREAM = 11
"""Beside the seed, of the generator that draws the sample."""


@dataclass(eq=False)
class TrainSample:
    """The same training images every time, as evaluation sees them; where training has tiles, tiles.

    Args:
        loader: gives each once; metric: counts them.
    """

    loader: WatchedLoader
    metric: DetectionMetric


def sample_of(images: LabelledImages, config: TrainConfig, *, rank: int = 0, world_size: int = 1) -> TrainSample | None:
    """The sample of a training, drawn by its seed; None for a classifier, and where it would be too small.

    Args:
        images: the training split.
        rank, world_size: as in `eval_loader_of`.
    """
    count = sample_size(config.recipe, len(images))
    if images.task != "detect" or count < world_size or not count:
        return None
    positions = np.random.default_rng((config.seed, STREAM)).permutation(len(images))[:count]
    samples = replace(images.samples.take(np.sort(positions)), image_ids=np.arange(1, count + 1))  # tiles share theirs
    chosen = replace(images, samples=samples, tiling=None, problems=(), label_files={})
    chosen = replace(chosen, ground_truth=to_coco(chosen))
    evaluation = config.recipe.evaluation
    metric = build_metric(chosen, backend=evaluation.backend, max_det=evaluation.max_det)
    assert isinstance(metric, DetectionMetric)
    return TrainSample(eval_loader_of(chosen, config, rank=rank, world_size=world_size), metric)


def sample_size(recipe: RecipeConfig, count: int) -> int:
    """How many of `count` training images are evaluated; 0: none."""
    wanted = recipe.evaluation.train_images
    if wanted != "auto":
        return min(wanted, count)
    epochs = recipe.total_epochs
    affordable = int(SHARE * count * epochs / min(TIMES, epochs))
    return 0 if affordable < FEWEST else min(affordable, MOST, count)


def is_due(epoch: int, recipe: RecipeConfig) -> bool:
    """Whether the sample is evaluated after an epoch, counted from 1: a function of nothing else than the recipe."""
    interval = recipe.evaluation.interval
    every = interval * -(-recipe.total_epochs // (TIMES * interval))
    return epoch % every == 0 or epoch == recipe.total_epochs

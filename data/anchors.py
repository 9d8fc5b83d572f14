"""Anchors for a data set: how well a set of anchors covers its boxes, and the best set for them.

python -m data.anchors DATA --img-size 416 --num 9
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
import itertools
import json
import logging
import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from data.config import load_data_config
from data.read import check_objects, read_split
from data.tiles import training_tiles
from utils.arguments import Parser, seed, whole_number
from utils.boxes import plan_resize
from utils.choices import DETECTOR_RESIZES
from utils.config import ConfigError
from utils.log import say, say_error
from utils.structures import LabelledImages
from utils.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

FACTOR = 4.0
"""Largest ratio of sides between an object and an anchor that can predict it, as in the anchor_ratio assigner."""

SAMPLE = 10_000
"""Largest number of boxes in a fit; larger sets are sampled. More boxes hardly change the anchors."""

COCO_SPREAD, SPREAD_WEIGHT = 0.8, 20
"""`size_spread` of COCO, and the number of objects that it counts as."""

LONG_FIT = 5_000
"""From this many boxes on, a fit takes seconds and is announced."""

LEAST_SIDE = 0.01
"""Of an anchor, in pixels: a head refuses 0."""


class Coverage(NamedTuple):
    """How well anchors cover boxes.

    Args:
        recall: share of boxes that have an anchor within the factor; the best possible recall.
        iou: mean over boxes of the best IoU with an anchor on the same centre.
    """

    recall: float
    iou: float


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    try:
        say(run(args))
    except (ConfigError, ValueError, OSError) as error:
        say_error(error)
        return 2
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = Parser(prog="python -m data.anchors", description="Fit anchors to a data set.")
    parser.add_argument("data", nargs="?", default="shapes", help="data YAML: a path, or a name in cfg/data/")
    parser.add_image_size(default=416)
    parser.add_argument("--num", type=whole_number, help="anchors over all levels; three a level if left out")
    parser.add_argument("--levels", type=whole_number, default=3, help="levels of the model, finest first")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train", help="part of the data")
    parser.add_argument("--resize", choices=DETECTOR_RESIZES, default="letterbox", help="as the model does it")
    parser.add_argument("--seed", type=seed, default=0, help="of the search")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> str:
    """What the command prints."""
    count = 3 * args.levels if args.num is None else args.num
    if count % args.levels:
        raise ConfigError(f"--num {count} anchors cannot be shared equally by --levels {args.levels}")
    whole = read_split(load_data_config(args.data), args.split, truth="none")
    images, tiles = training_tiles(whole, seed=args.seed)
    height, width = args.img_size
    sizes = box_sizes(images, (height, width), args.resize)
    anchors = rounded(fit_anchors(sizes, count, seed=args.seed))
    coverage = cover(sizes, anchors)
    levels = by_level(anchors, [count // args.levels] * args.levels)
    if args.json:
        about = {} if tiles is None else {"tiles": tiles.kept}
        return json.dumps({"anchors": levels, "boxes": len(sizes), **about, **coverage._asdict()})
    text = ", ".join(str(level) for level in levels)
    different = len(_distinct(sizes))
    note = f"only {different} different sizes; the other anchors are scaled copies\n" if different < count else ""
    of = tiles or f"{len(images)} images"
    return (
        f"{len(sizes)} boxes of {of} at {height} x {width} px: best possible recall {coverage.recall:.4f} "
        f"(an anchor within a factor {FACTOR:g}), mean best IoU {coverage.iou:.3f}\n{note}anchors: [{text}]"
    )


def box_sizes(images: LabelledImages, size: tuple[int, int], resize: str) -> np.ndarray:
    """(N, 2) width and height of all objects (no crowds) in pixels of a network input of (height, width) `size`.

    Raises:
        ConfigError: not one object.
    """
    check_objects(images, "there is nothing to fit anchors to")
    sizes = object_sizes(images, size, resize)
    sizes = sizes[(sizes > 0).all(axis=1)]
    if not len(sizes):
        raise ConfigError("no box has a width and a height; check the labels with python -m data.doctor")
    return sizes


def object_sizes(images: LabelledImages, size: tuple[int, int], resize: str) -> np.ndarray:
    """(N, 2) as `box_sizes`, but with boxes that have no width or height; (0, 2) where there is no object."""
    samples = images.samples
    plans = [plan_resize(height, width, size, resize) for height, width in samples.sizes.tolist()]
    scales = np.array([(plan.scale_x, plan.scale_y) for plan in plans]).reshape(-1, 2)[samples.image_index()]
    return ((samples.boxes[:, 2:] - samples.boxes[:, :2]) * scales)[~samples.crowd]


def size_spread(images: LabelledImages, size: tuple[int, int], resize: str) -> float:
    """How much the sizes of objects of the same class differ: the standard deviation of log(sqrt(width x height)).

    Few objects do not say: then the result is near that of COCO, which counts as SPREAD_WEIGHT objects.
    """
    areas = object_sizes(images, size, resize).prod(axis=1)
    labels, known = images.samples.labels[~images.samples.crowd], areas > 0
    logs, labels = np.log(areas[known]) / 2, labels[known]
    counts = np.bincount(labels, minlength=len(images.names))
    means = np.bincount(labels, logs, minlength=len(images.names)) / np.maximum(counts, 1)
    squares, free = ((logs - means[labels]) ** 2).sum(), len(logs) - (counts > 0).sum()
    return float(np.sqrt((squares + SPREAD_WEIGHT * COCO_SPREAD**2) / (free + SPREAD_WEIGHT)))


def cover(sizes: np.ndarray, anchors: np.ndarray, *, factor: float = FACTOR) -> Coverage:
    """How well (K, 2) anchors cover boxes of (N, 2) width and height."""
    reach = np.full(len(sizes), np.inf)
    for anchor in anchors:  # one by one, which is faster on a large set than one array of all
        ratio = sizes / anchor
        reach = np.minimum(reach, np.maximum(ratio, 1 / ratio).max(axis=1))
    return Coverage(float((reach < factor).mean()), float(_iou(sizes, anchors).max(axis=1).mean()))


def fit_anchors(sizes: np.ndarray, count: int, *, seed: int = 0, rounds: int = 300) -> np.ndarray:
    """(count, 2) anchors by k-means with 1 - IoU as the distance (YOLOv2, arXiv:1612.08242), smallest area first.

    The best of ten starts. Each anchor moves to the median of its boxes, until no box changes its anchor. From more
    than SAMPLE boxes, that many are drawn with `seed`. If there are fewer distinct sizes than anchors, all of them are
    used, with scaled copies for the rest.

    Args:
        sizes: (N, 2) width and height, at least one.
    """
    rng = np.random.default_rng(seed)
    if len(sizes) > SAMPLE:
        ordered = sizes[np.lexsort(sizes.T)]  # the draw does not depend on the order of the boxes
        sizes = ordered[rng.choice(len(sizes), SAMPLE, replace=False)]
    distinct = _distinct(sizes)
    if len(distinct) < count:
        best = _with_copies(distinct, count)
        return best[np.argsort(best.prod(axis=1), kind="stable")]
    best, best_iou = distinct[:count], -1.0
    for _ in range(10):
        anchors = _spread(distinct, count, rng)
        owner = None
        for _ in range(rounds):
            now = _iou(sizes, anchors).argmax(axis=1)
            if owner is not None and (now == owner).all():
                break
            owner = now
            for index in range(count):
                if (owner == index).any():
                    anchors[index] = np.median(sizes[owner == index], axis=0)
        iou = cover(sizes, anchors).iou
        if iou > best_iou:
            best, best_iou = anchors.copy(), iou
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def better_anchors(
    sizes: np.ndarray, current: list[np.ndarray], *, least_recall: float
) -> tuple[list[list[float]], Coverage, Coverage] | None:
    """Anchors fitted to a data set, if those of the model cover too little of it.

    Args:
        current: (A, 2) anchors of each level, finest first.
        least_recall: best possible recall that is good enough.
    Returns:
        For each level width, height, width, ...; then the coverage before and after. None if the model's own are
        good enough, or the fit is no better.
    """
    before = cover(sizes, np.concatenate(current))
    counts = [len(level) for level in current]
    if before.recall >= least_recall:
        return None
    if len(sizes) >= LONG_FIT:
        sample = f"a sample of {SAMPLE} of " if len(sizes) > SAMPLE else ""
        logger.info("Anchors: fitting %d to %s%d boxes, which takes some seconds", sum(counts), sample, len(sizes))
    anchors = rounded(fit_anchors(sizes, sum(counts)))
    after = cover(sizes, anchors)
    return (by_level(anchors, counts), before, after) if after.recall > before.recall else None


class Head(Protocol):
    """What has anchors: the anchor head of a model."""

    @property
    def anchors(self) -> list[Tensor]:
        """(A, 2) width and height in pixels for each level."""

    def set_anchors_(self, anchors: list[list[float]]) -> None:
        """Replace them."""


def fit_anchors_(head: Head, images: LabelledImages, config: TrainConfig) -> None:
    """Give `head` anchors fitted to the training set, if its own cover less of it than the recipe asks for.

    Logs a warning if the coverage is still too low afterwards.
    """
    sizes = box_sizes(images, config.image_size, config.model["resize"])
    least = config.recipe.anchor_recall or 0.0
    fit = better_anchors(sizes, _arrays(head), least_recall=least)
    if fit is not None:
        anchors, before, after = fit
        head.set_anchors_(anchors)
        shares = f"{before.recall:.3f} of the boxes, those fitted to them {after.recall:.3f}"
        logger.info("Anchors: the model's own cover %s and are used (--set anchor_recall=null keeps them)", shares)
        logger.info("  %s", anchors)
    recall = cover(sizes, np.concatenate(_arrays(head))).recall
    if recall < least:
        logger.warning(
            "Anchors: those in use cover %.3f of the boxes, and anchor_recall asks for %g. A box without an "
            "anchor within a factor %g of its sides is hardly learned: check the labels (python -m data.doctor), give "
            "each level more anchors (head.anchors of the model), or take an anchor-free model (--cfg cspdet-n-af)",
            recall,
            least,
            FACTOR,
        )


def _arrays(head: Head) -> list[np.ndarray]:
    return [level.cpu().numpy() for level in head.anchors]


def rounded(anchors: np.ndarray) -> np.ndarray:
    """(K, 2) sides in pixels, rounded to tenths, or below a pixel to two significant digits; none is 0."""
    decimals = 1 - np.floor(np.log10(anchors.clip(LEAST_SIDE))).clip(max=0)
    return (np.round(anchors * 10**decimals) / 10**decimals).clip(LEAST_SIDE)


def by_level(anchors: np.ndarray, counts: list[int]) -> list[list[float]]:
    """(K, 2) anchors in ascending order -> for each level, finest first, width, height, width, ... in pixels."""
    return [part.ravel().tolist() for part in np.split(anchors, np.cumsum(counts)[:-1])]


def _distinct(sizes: np.ndarray) -> np.ndarray:
    """The different sizes, to thousandths of a pixel."""
    return np.unique(sizes.round(3).clip(0.001), axis=0)


def _with_copies(sizes: np.ndarray, count: int) -> np.ndarray:
    """(count, 2): the sizes, then copies of all of them, scaled by 1.25, 1 / 1.25, 1.25 squared, ...

    Example: of one size and nine anchors, the outermost copies are 0.41 and 2.44 times as large.
    """
    powers = itertools.chain.from_iterable((power, -power) for power in itertools.count(1))
    copies = [sizes, *(sizes * 1.25**power for power in itertools.islice(powers, math.ceil(count / len(sizes)) - 1))]
    return np.concatenate(copies)[:count].astype(np.float64)


def _spread(sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) distinct sizes to start from, weighted by the squared distance to those before (k-means++)."""
    anchors = [sizes[rng.integers(len(sizes))]]
    while len(anchors) < count:
        distance = (1 - _iou(sizes, np.array(anchors)).max(axis=1)).clip(0) ** 2
        distance = distance if distance.sum() > 0 else np.ones(len(sizes))
        anchors.append(sizes[rng.choice(len(sizes), p=distance / distance.sum())])
    return np.array(anchors, dtype=np.float64)


def _iou(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(N, K) IoU of boxes and anchors on the same centre."""
    overlap = np.minimum(sizes[:, None, 0], anchors[:, 0]) * np.minimum(sizes[:, None, 1], anchors[:, 1])
    return overlap / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - overlap)


if __name__ == "__main__":
    run_program(main)

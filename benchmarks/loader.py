"""Training samples per second of one core, from disk and from memory, and the time of each stage.

python benchmarks/loader.py --data coco_tiny/data.yaml --img-size 640 --batch-size 16

Mosaic in every sample, random scale, shift, colour and mirror image, as in the default recipe. Times are process time,
so that other programs disturb little; the first batches, which ask the system for memory, are left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import torch

from data import dataset, mosaic, sample_reader, transforms
from data.config import load_data_config
from data.loader import build_train_loader
from data.read import read_split
from data.sampler import SizePlan, TrainSampler
from utils.arguments import Parser, whole_number
from utils.augment_config import AugmentConfig
from utils.config import ConfigError
from utils.log import say, say_error
from utils.structures import LabelledImages

STAGES: dict[str, list[tuple[ModuleType, str]]] = {
    "decode": [(sample_reader, "read_for_training")],
    "resize": [(dataset, "_resized")],
    "warp": [(mosaic, "draw_"), (transforms, "draw_")],
    "colour": [(dataset, "random_hsv")],
    "flip": [(dataset, "random_flips")],
    "boxes": [(mosaic, "visible"), (mosaic, "move_boxes"), (mosaic, "keep_visible")],
    "collate": [(dataset, "to_item"), (dataset, "collate")],
}
"""Stage -> the functions whose time it is."""

WARM_UP = 3
"""Batches before those that count."""


class StageClock:
    """Process time inside the functions of STAGES, once each has been replaced by one that is timed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running = False
        for stage, places in STAGES.items():
            for module, name in places:
                setattr(module, name, self._timed(stage, getattr(module, name)))

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            if self.running:  # part of another stage
                return function(*args, **options)
            self.running, begin = True, time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.seconds[stage] += time.process_time() - begin
                self.running = False

        return timed


def main() -> int:
    """Command line; returns the exit status."""
    args = parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        images = read_split(load_data_config(args.data), "train")
    except (ConfigError, ValueError, OSError) as error:
        say_error(error)
        return 2
    clock = StageClock()
    say(f"{args.data}: {len(images)} images, {args.img_size} pixels, batches of {args.batch_size}, one core")
    say(f"{'from':8}{'samples/s':>10}{'ms':>8}   " + "".join(f"{stage:>9}" for stage in (*STAGES, "rest")))
    rates = {}
    for place in ("memory",) if args.cache else ("disk", "memory"):
        milliseconds, stages = measure(images, args, clock, cached=place == "memory")
        rates[place] = 1000 / milliseconds
        parts = "".join(f"{value:9.3f}" for value in stages)
        say(f"{place:8}{rates[place]:10.1f}{milliseconds:8.3f}   {parts}")
    if len(rates) > 1:
        say(f"From memory {rates['memory'] / rates['disk']:.2f} times as fast as from disk")
    return 0


def measure(
    images: LabelledImages, args: argparse.Namespace, clock: StageClock, *, cached: bool
) -> tuple[float, list[float]]:
    """Milliseconds of one sample (the median of the batches), and of its stages and the rest (means)."""
    size = (args.img_size, args.img_size)
    train_set = dataset.TrainDataset(images, AugmentConfig(scale=0.5), image_size=size, resize="letterbox", seed=0)
    if cached:
        train_set.fill_cache(limit_bytes=10**12)
    batches, times = endless(train_set, args.batch_size), []
    for number in range(WARM_UP + args.batches):
        if number == WARM_UP:
            clock.seconds.clear()
        begin = time.process_time()
        next(batches)
        times.append(time.process_time() - begin)
    count = args.batches * args.batch_size
    stages = [1000 * clock.seconds[stage] / count for stage in STAGES]
    rest = 1000 * sum(times[WARM_UP:]) / count - sum(stages)
    return 1000 * statistics.median(times[WARM_UP:]) / args.batch_size, [*stages, rest]


def endless(train_set: dataset.TrainDataset, batch_size: int) -> Iterator[Any]:
    """The batches of one epoch after another, made in this process."""
    sizes = SizePlan(train_set.image_size, stride=32)
    sampler = TrainSampler(len(train_set), batch_size=batch_size, sizes=sizes, mix_epochs=sys.maxsize, seed=0)
    loader = build_train_loader(train_set, sampler, workers=0)
    for epoch in range(sys.maxsize):
        sampler.set_position(epoch)
        yield from loader


def parse_args() -> argparse.Namespace:
    """Options of this script."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data YAML: a path, or a name in cfg/data/")
    parser.add_argument("--img-size", type=whole_number, default=640, metavar="N", help="side in pixels (default 640)")
    parser.add_argument("--batch-size", type=whole_number, default=16, metavar="N", help="samples in a batch")
    parser.add_argument("--batches", type=whole_number, default=20, metavar="N", help="batches that count (default 20)")
    parser.add_argument("--cache", action="store_true", help="from memory alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

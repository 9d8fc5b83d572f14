"""Time of a training step by part: python benchmarks/step.py --cfg cspdet-n cspdet-n-af.

The steps are those of a training (engine/step.py) on random images. Models take turns, so that what else the machine
does hits all alike. By default the time is that of the process on its cores, which other programs hardly change; --wall
prints that of the clock, by which images a second count.

With --data the images are those of a set, drawn and augmented by loader processes while the model computes, and each
model has all its steps in a row. On a GPU a line says how often the host waits for it in a step:

    python benchmarks/step.py --cfg cspdet-n --device cuda --img-size 640 --batch-size 128 --rounds 50
    python benchmarks/step.py --cfg cspdet-n --device cuda --img-size 640 --batch-size 128 --rounds 50 --data coco.yaml
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.config import load_data_config
from data.loader import train_loader_of, train_set_of
from data.read import read_split
from engine.build import settled_for
from engine.state import TrainState
from engine.step import Criterion, StepClock, Stepper, train_step
from models.benchmark.costs import count_costs
from models.build import build_criterion, build_model
from models.config import load_model_config
from models.regularization import regularize_
from utils.arguments import Parser, default_workers, whole_number
from utils.device import describe_device, select_device
from utils.launch import run_together
from utils.log import say
from utils.memory import use_huge_pages
from utils.recipe import RecipeConfig, load_recipe
from utils.structures import Batch, LabelledImages, Targets
from utils.train_config import TrainConfig

CLASSES, OBJECTS = 80, 9
"""Of every model; and the mean number of objects in an image."""

WARM_UPS = 2
"""Steps before the first that counts."""


class ProcessClock(StepClock):
    """Seconds that the process has had on its cores, all threads together."""

    def _now(self) -> float:
        return time.process_time()


@dataclass(eq=False)
class Contestant:
    """A model with all that its steps need.

    Args:
        flops: operations of a step on an image: those of the forward pass, and twice as many for the gradients.
        rounds: seconds by part, of each step that counts; 'all' is their sum.
    """

    title: str
    stepper: Stepper
    state: TrainState
    flops: float
    rounds: list[dict[str, float]] = field(default_factory=list)

    def step(self, batch: Batch) -> None:
        """One step, noted with what the clock has counted before it."""
        train_step(self.stepper, self.state, [batch])
        parts = self.stepper.clock.take(wait=True)
        self.rounds.append({**parts, "all": sum(parts.values())})
        self.stepper.clock.restart()

    def median(self, part: str) -> float:
        """Milliseconds a step."""
        return 1000 * statistics.median(each[part] for each in self.rounds)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    return run_together(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = Parser(description="Time of a training step by part, without the loader.")
    parser.add_argument("--cfg", nargs="+", default=["cspdet-n", "cspdet-n-af"], help="models, measured by the first")
    parser.add_argument("--hyp", default="default", help="recipe")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the recipe, e.g. amp=off")
    parser.add_argument("--img-size", type=whole_number, default=320, help="pixels")
    parser.add_argument("--batch-size", type=whole_number, default=16, help="images a step")
    parser.add_argument("--data", help="a set whose training images are loaded, of at most 80 classes")
    parser.add_argument("--workers", type=whole_number, default=default_workers(), help="with --data: loader processes")
    parser.add_argument("--rounds", type=whole_number, default=8, help="steps of each model that count")
    parser.add_argument("--threads", type=whole_number, help="CPU threads")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the fastest there is)")
    parser.add_argument("--compile", action="store_true", help="each model compiled as well (the first step is slow)")
    parser.add_argument("--wall", action="store_true", help="time by the clock, as always on a GPU")
    args = parser.parse_args(argv)
    device, wall = select_device(args.device), args.wall
    if device.type == "cpu":
        use_huge_pages()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = replace(load_recipe(args.hyp, args.set), batch_size=args.batch_size, epochs=1)
    wall |= device.type != "cpu"
    contestants = [
        contestant(name, args.img_size, recipe, device, compiled=compiled, wall=wall)
        for name in args.cfg
        for compiled in ((False, True) if args.compile else (False,))
    ]
    if args.data:
        images = read_split(load_data_config(args.data), "train")
        for each in contestants:
            run_from_loader(each, images, args)
    else:
        for number in range(WARM_UPS + args.rounds):
            for each in contestants:
                batch = random_batch(number, args.batch_size, args.img_size)
                each.stepper.clock.restart()
                each.step(batch)
    for each in contestants:
        del each.rounds[:WARM_UPS]
    where = f"{describe_device(device)}, torch {torch.__version__}, {args.img_size} px, batch {args.batch_size}"
    kind = "by the clock" if wall else "of the process"
    say(f"{where}, recipe {args.hyp}; medians of {args.rounds} steps, ms {kind}")
    say(table(contestants, args.batch_size))
    if device.type == "cuda":
        for each in contestants:
            waits = count_waits(each, random_batch(0, args.batch_size, args.img_size))
            say(f"{each.title}: the host waits for the GPU {waits} times in a step")
    return 0


def run_from_loader(each: Contestant, images: LabelledImages, args: argparse.Namespace) -> None:
    """All steps of a model on augmented images, the wait for each batch noted as 'data'."""
    recipe, size = replace(each.stepper.recipe, epochs=1000), (args.img_size, args.img_size)
    config = TrainConfig({"resize": "letterbox"}, recipe, args.data, size, None, seed=0, workers=args.workers)
    config = settled_for(config, images)
    on_cuda = each.stepper.device.type == "cuda"
    loader = train_loader_of(train_set_of(images, config), config, stride=32, pin_memory=on_cuda)
    steps = itertools.chain.from_iterable(itertools.repeat(loader))
    each.stepper.clock.restart()
    for batch in itertools.islice(steps, WARM_UPS + args.rounds):
        each.stepper.clock.lap("data")
        each.step(batch)


def count_waits(each: Contestant, batch: Batch) -> int:
    """How often the host waits for the GPU in a step, by PyTorch's count."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train_step(each.stepper, each.state, [batch])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def contestant(
    name: str, side: int, recipe: RecipeConfig, device: torch.device, *, compiled: bool, wall: bool
) -> Contestant:
    """A model as a training begins with it, with fresh weights."""
    torch.manual_seed(0)
    config = replace(load_model_config(name), image_size=side)
    model = build_model(config, CLASSES)
    regularize_(model, recipe)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    model = model.to(device).train()
    criterion = build_criterion(model, recipe.loss, where="recipe: loss", class_counts=[1] * CLASSES).to(device)
    clock = StepClock(device) if wall else ProcessClock(device)
    forward = torch.compile(model) if compiled else model
    stepper = Stepper(forward, cast(Criterion, criterion), recipe, 1000, 0, device, clock)
    flops = 3e9 * count_costs(config, num_classes=CLASSES).bflops
    title = f"{name}, compiled" if compiled else name
    return Contestant(title, stepper, TrainState.create(model, recipe, device), flops)


def random_batch(seed: int, count: int, side: int) -> Batch:
    """Noise with boxes of all sizes anywhere; the same for each model."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8))
    index = np.repeat(np.arange(count), rng.poisson(OBJECTS, count))
    centres, halves = rng.uniform(0, side, (len(index), 2)), rng.uniform(4, side / 4, (len(index), 2))
    boxes = np.concatenate((centres - halves, centres + halves), axis=1).clip(0, side).astype(np.float32)
    labels = rng.integers(CLASSES, size=len(index))
    targets = Targets(*map(torch.from_numpy, (boxes, labels, index, np.zeros(len(index), bool))))
    return Batch(images, targets, tuple(range(count)), ("",) * count)


def table(contestants: list[Contestant], batch_size: int) -> str:
    """A line for each model: images and operations a second, the ratio to the first model, milliseconds by part."""
    parts = list(contestants[0].rounds[0])
    width = max(len(each.title) for each in contestants)
    lines = [f"{'':{width}}  images/s   ratio TFLOP/s " + "".join(f"{part:>11}" for part in parts)]
    for each in contestants:
        whole = each.median("all")
        numbers = "".join(f"{each.median(part):11.1f}" for part in parts)
        ratio, speed = contestants[0].median("all") / whole, each.flops * batch_size / whole / 1e9
        lines.append(f"{each.title:{width}}{1000 * batch_size / whole:10.1f}{ratio:8.2f}{speed:8.2f} {numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

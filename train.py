"""Train a detector: build, resume, loop over epochs, evaluate, save.

python train.py --cfg csppeleenet-prn.yaml                        # on the embedded data set
python train.py --cfg cspresnext50-panet-spp.yaml --data my.yaml  # on your own
torchrun --nproc_per_node 8 train.py ...                          # on several GPUs
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from data.config import load_data_config
from data.images import read_image
from data.loader import TrainSampler, default_workers
from data.splits import DataSplits, eval_loader_of, read_splits, train_loader_of
from models.build import build_criterion, build_model, check_image_size
from models.config import load_model_config, model_config_from
from models.detector import Detector
from models.predictor import ModelPredictor, open_predictor
from models.pretrained import start_from_
from utils import dist, plots
from utils.config import ROOT, ConfigError, to_plain
from utils.device import select_device
from utils.log import MetricLog, Progress, error_text, setup_logging
from utils.metrics.detection import DetectionMetric
from utils.run import Run, write_whole
from utils.structures import LabelledImages
from utils.training.checkpoint import load_checkpoint, replace_with_link, save_checkpoint, versions
from utils.training.clock import StepClock
from utils.training.config import RecipeConfig, TrainConfig, load_recipe, saved_config
from utils.training.epoch_log import EpochLog, progress_note
from utils.training.optim import freeze_, keep_frozen_statistics_
from utils.training.options import FIXED_BY_A_RUN, parse_train_args, total_epochs
from utils.training.state import TrainState, amp_dtype
from utils.training.step import Stepper, train_step
from utils.training.stop import Stop, graceful_stop
from val import evaluate

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_train_args(argv)
    setup_logging(rank=dist.launched_rank())
    try:
        device = select_device(args.device, local_rank=dist.local_rank())
        config, run = resolve(args)
        with graceful_stop() as stop:
            return train(config, run, args, device, stop)
    except (ConfigError, ValueError, OSError) as error:
        print(f"error: {error_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped at once; the last checkpoint is whole.", file=sys.stderr)
        return 130


def resolve(args: Namespace) -> tuple[TrainConfig, Run | None]:
    """The configuration that the command line asks for, and the run to resume, if any.

    Raises:
        ConfigError: anything wrong with the command line or a file that it names.
    """
    if args.resume is not None:
        return resume_config(args)
    if args.cfg is None:
        known = ", ".join(sorted(path.name for path in (ROOT / "cfg").glob("*.yaml")))
        raise ConfigError(f"--cfg is missing: name a model, for example --cfg csppeleenet-prn.yaml. Known: {known}")
    data = "shapes" if args.data in (None, "shapes") else str(load_data_config(args.data).source)
    for_model = [text.removeprefix("model.") for text in args.set if text.startswith("model.")]
    for_recipe = [text for text in args.set if not text.startswith("model.")]
    model = load_model_config(args.cfg, for_model)
    recipe = load_recipe(args.hyp or ("shapes" if data == "shapes" else "default"), for_recipe)
    size = args.batch_size if args.batch_size != "auto" else None
    options = {"epochs": total_epochs(args.epochs), "batch_size": size, "image_size": args.img_size}
    options["deterministic"] = args.deterministic or None
    recipe = replace(recipe, **{key: value for key, value in options.items() if value is not None})
    size = (recipe.image_size, recipe.image_size) if recipe.image_size else model.size
    workers = default_workers() if args.workers is None else args.workers
    return TrainConfig(to_plain(model), recipe, data, size, args.weights, args.seed or 0, workers), None


def resume_config(args: Namespace) -> tuple[TrainConfig, Run]:
    """The configuration of the run that --resume names, with the processes and epochs of the command line.

    More epochs stretch the schedule: from here on the learning rate is that of the longer training at the same step.

    Raises:
        ConfigError: no such run, or an option that a run keeps.
    """
    given = [f"--{name.replace('_', '-')}" for name in FIXED_BY_A_RUN if getattr(args, name) not in (None, [])]
    if given:
        raise ConfigError(f"--resume continues a run as it was started; leave out {', '.join(given)}")
    run = Run.find(args.resume, Path(args.project))
    config = saved_config(run.folder / "config.yaml", workers=args.workers)
    epochs = total_epochs(args.epochs, planned=config.recipe.epochs)
    if epochs is not None and epochs < config.recipe.epochs:
        planned = config.recipe.epochs
        raise ConfigError(f"--epochs {epochs}: the run was planned for {planned}; --resume can only lengthen it")
    return replace(config, recipe=replace(config.recipe, epochs=epochs or config.recipe.epochs)), run


def train(config: TrainConfig, run: Run | None, args: Namespace, device: torch.device, stop: Stop) -> int:
    """Train from the start, or on from `run`; returns the exit status."""
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = config.recipe
    images = read_splits(config.data)  # before the process group starts: scanning may take long
    with dist.process_group(device):
        fresh = run is None or not run.checkpoint.is_file()
        torch.manual_seed(config.seed)
        model = build_trainable(config, len(images.names), device, fresh=fresh)
        state = TrainState.create(model, recipe, device)
        # The folder comes last: a mistake in the configuration leaves none behind.
        job = Job.create(config, images, model, device, open_run=lambda: run or start_run(config, args))
        if not fresh:
            resume_(job, state)
        log = open_log(job, state) if dist.rank() == 0 else None
        describe(job, state)
        for epoch in range(state.epoch, recipe.epochs):
            if out_of_patience(recipe, state):
                logger.info("No better result for %d epochs: stopping early after epoch %d", recipe.patience, epoch)
                break
            if not train_one_epoch(job, state, stop):
                save(job, state)
                logger.info("Stopped and saved. Continue with: python train.py --resume %s", job.run.folder)
                return 128 + (stop.signal or 15)
            record(job, state, log, validate(job, state))
        if log is not None:
            finish(job, log)
            log.close()
        dist.barrier()
    return 0


@dataclass(frozen=True, eq=False)
class Job:
    """What does not change during a run.

    Args:
        stepper: forward pass, loss and recipe of each step.
        metric: of the validation split.
    """

    config: TrainConfig
    run: Run
    images: DataSplits
    stepper: Stepper
    loader: DataLoader
    val_loader: DataLoader
    metric: DetectionMetric

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        images: DataSplits,
        model: Detector,
        device: torch.device,
        *,
        open_run: Callable[[], Run],
    ) -> Job:
        """Loaders, loss and metric of a run, and last its folder."""
        recipe, ranks = config.recipe, {"rank": dist.rank(), "world_size": dist.world_size()}
        cuda = device.type == "cuda"
        loader = train_loader_of(images.train, config, stride=model.stride, pin_memory=cuda, **ranks)
        forward: nn.Module = dist.wrap(model, device)
        stepper = Stepper(
            forward=torch.compile(forward) if recipe.compile else forward,
            criterion=build_criterion(model, recipe.loss, where="recipe: loss"),
            recipe=recipe,
            steps_per_epoch=-(-loader.batch_sampler.batches // recipe.accumulate),
            device=device,
            clock=StepClock(device),
        )
        val_loader = eval_loader_of(images.val, config, **ranks)
        return cls(config, open_run(), images, stepper, loader, val_loader, metric_of(images.val, recipe))

    @property
    def sampler(self) -> TrainSampler:
        """Which images each batch has."""
        return self.loader.batch_sampler


def resume_(job: Job, state: TrainState) -> None:
    """Put the run's checkpoint into `state`, and more epochs than before into config.yaml."""
    state.load_state_dict(load_checkpoint(job.run.checkpoint))
    epochs = job.config.recipe.epochs
    if dist.rank() == 0 and saved_config(job.run.folder / "config.yaml").recipe.epochs != epochs:
        job.run.save_config(to_plain(job.config))
        logger.info("Now %d epochs; from here on the learning rate is that of so long a training", epochs)
    logger.info("Continuing %s after epoch %d, batch %d", job.run.folder, state.epoch, state.batch)


def open_log(job: Job, state: TrainState) -> EpochLog:
    """The tables of the run, without rows of epochs that are yet to come."""
    table = MetricLog(job.run.folder, finished_epochs=state.epoch)
    epochs, workers = job.config.recipe.epochs, job.config.workers
    return EpochLog(table, epochs=epochs, columns=job.metric.columns, workers=workers)


def out_of_patience(recipe: RecipeConfig, state: TrainState) -> bool:
    """Whether too many epochs have gone by without a better result; asked after evaluations only."""
    evaluated = state.epoch % recipe.evaluation.interval == 0
    return bool(recipe.patience) and evaluated and state.epoch - state.best_epoch >= recipe.patience


def train_one_epoch(job: Job, state: TrainState, stop: Stop) -> bool:
    """The rest of the current epoch; False when somebody asked to stop before its end."""
    recipe, clock, quiet = job.config.recipe, job.stepper.clock, dist.rank() != 0
    state.model.train()
    keep_frozen_statistics_(state.model, recipe.freeze)
    job.sampler.set_position(state.epoch, state.batch)
    title = f"Epoch {state.epoch + 1}/{recipe.epochs}"
    clock.restart()
    last_save = mark = time.perf_counter()
    with Progress(job.sampler.batches, title, start=state.batch, quiet=quiet) as progress:
        for batches in grouped(job.loader, recipe.accumulate):
            clock.lap("wait")
            if state.step < 3 and not quiet:
                picture = job.run.folder / f"train_batch{state.step}.png"
                plots.plot_batch(batches[0].images, batches[0].targets, job.images.names, picture)
                clock.restart()
            terms = train_step(job.stepper, state, batches)
            now = time.perf_counter()
            state.batch += len(batches)
            state.count({f"loss/{name}": value for name, value in terms.items()})
            state.count({"steps": 1, "images": len(batches) * recipe.batch_size, "seconds": now - mark})
            state.count({f"time/{part}": seconds for part, seconds in clock.take().items()})
            mark = now
            for _ in batches:
                progress.advance(progress_note(state.sums))
            if stop.requested(job.stepper.device):
                return False
            if now - last_save > 60 * recipe.save_minutes:
                save(job, state)
                last_save = now
    state.count({f"time/{part}": seconds for part, seconds in clock.take(wait=True).items()})
    return True


def validate(job: Job, state: TrainState) -> dict[str, Any] | None:
    """Close the epoch and evaluate the averaged weights; None where the recipe skips this epoch."""
    recipe = job.config.recipe
    state.epoch, state.batch = state.epoch + 1, 0
    if state.epoch % recipe.evaluation.interval and state.epoch < recipe.epochs:
        return None
    # Each rank has its own statistics of batch normalisation; those of rank 0 are saved, so they are evaluated.
    dist.copy_from_first_rank_(state.ema.module.buffers())
    predictor = ModelPredictor(
        state.ema.module,
        names=job.images.names,
        category_ids=job.images.train.category_ids,
        image_size=job.config.image_size,
        resize=job.config.model["resize"],
        nms=job.config.model.get("nms", "default"),
        device=job.stepper.device,
    )
    job.metric.reset()
    begin = time.perf_counter()
    figures = evaluate(predictor, job.val_loader, job.metric, **protocol(recipe), over_ranks=dist.is_distributed())
    state.count({"time/evaluation": time.perf_counter() - begin})
    return figures


def record(job: Job, state: TrainState, log: EpochLog | None, figures: dict[str, Any] | None) -> None:
    """Note the epoch in results.csv, TensorBoard and the console, then save last.pt and, if it is better, best.pt."""
    main = job.metric.columns[0]
    improved = figures is not None and figures[main] > state.best
    if improved:
        state.best, state.best_epoch = figures[main], state.epoch
    if log is not None:
        log.write(state, figures, improved=improved)
    state.sums = {}
    save(job, state, figures=figures)
    if improved and dist.rank() == 0:
        replace_with_link(job.run.best, job.run.last)


def save(job: Job, state: TrainState, *, figures: dict[str, Any] | None = None) -> None:
    """Write last.pt (rank 0)."""
    if dist.rank() != 0:
        return
    about = to_plain(job.config) | {
        "names": list(job.images.names),
        "category_ids": list(job.images.train.category_ids),
        "resize": job.config.model["resize"],
        "metrics": {key: value for key, value in figures.items() if isinstance(value, int | float)}
        if figures
        else None,
        "versions": versions(),
    }
    save_checkpoint(job.run.last, about | state.state_dict())


def finish(job: Job, log: EpochLog) -> None:
    """The COCO table of best.pt, metrics.json, the last pictures, and what to type next."""
    folder, val, recipe = job.run.folder, job.images.val, job.config.recipe
    predictor = open_predictor(job.run.best, device=job.stepper.device)
    metric = metric_of(val, recipe, backend="pycocotools")
    figures = evaluate(predictor, eval_loader_of(val, job.config), metric, **protocol(recipe))
    how = {"image_size": list(job.config.image_size), "precision": predictor.precision, "resize": predictor.resize}
    text = json.dumps({**figures, "protocol": protocol(recipe) | how}, indent=2, ensure_ascii=False)
    write_whole(folder / "metrics.json", text + "\n")
    plots.plot_results(folder / "results.csv", folder / "results.png")
    recall, precision = metric.pr_curves()
    plots.plot_pr_curves(recall, precision, folder / "pr_curve.png")
    pairs = (
        (sample, read_image(sample.path), metric.detections(sample.image_id, min_score=0.25))
        for sample in val.samples[:12]
    )
    plots.plot_predictions(pairs, val.names, folder / "val_predictions.png")
    log.table.pictures(sorted(folder.glob("*.png")))
    log.table.pr_curves(recall, precision)
    print(f"\nbest.pt on {job.images.source}, val, {len(val)} images, counted by pycocotools:\n{metric.table()}\n")
    source = val.samples[0].path.parent
    print(f"Results: {folder}\nNext: python detect.py --weights {job.run.best} --source {source}")


def protocol(recipe: RecipeConfig) -> dict[str, Any]:
    """The options of `evaluate`."""
    return {key: getattr(recipe.evaluation, key) for key in ("conf_thres", "iou_thres", "max_det")}


def start_run(config: TrainConfig, args: Namespace) -> Run:
    """A new run folder, made by rank 0."""
    folder = None
    if dist.rank() == 0:
        folder = str(Run.create(Path(args.project), args.name, to_plain(config)).folder)
    return Run(Path(dist.broadcast(folder)))


def build_trainable(config: TrainConfig, num_classes: int, device: torch.device, *, fresh: bool) -> Detector:
    """The model on its device, with initial weights if `fresh`, frozen where the recipe says so."""
    model = build_model(model_config_from(config.model, where="model"), num_classes)
    check_image_size(model, config.image_size, where="--img-size")
    if config.weights and fresh:
        start_from_(model, Path(config.weights))
    freeze_(model, config.recipe.freeze)
    memory_format = torch.channels_last if config.recipe.channels_last else torch.preserve_format
    return model.to(device, memory_format=memory_format)


def metric_of(images: LabelledImages, recipe: RecipeConfig, *, backend: str | None = None) -> DetectionMetric:
    """The metric of a split; objects of images that could not be read count as not found."""
    backend = backend or ("faster" if recipe.evaluation.fast else "pycocotools")
    return DetectionMetric(images.ground_truth, images.category_ids, images.names, backend=backend)


def describe(job: Job, state: TrainState) -> None:
    """Say what is about to happen, and draw labels.png."""
    recipe, images, device = job.config.recipe, job.images, job.stepper.device
    count = sum(parameter.numel() for parameter in state.model.parameters() if parameter.requires_grad)
    boxes = sum(len(sample.boxes) for sample in images.train.samples)
    height, width = job.config.image_size
    batch = f"{recipe.batch_size} x {recipe.accumulate}" if recipe.accumulate > 1 else str(recipe.batch_size)
    amp = amp_dtype(recipe, device)
    precision = "full precision" if amp is None else str(amp).removeprefix("torch.")
    where = f"{device} x {dist.world_size()}" if dist.world_size() > 1 else str(device)
    logger.info("Run folder: %s", job.run.folder)
    logger.info("Model: %s, %.2f M trainable parameters", job.config.model["name"], count / 1e6)
    logger.info("Data: %s, %d classes", images.source, len(images.names))
    logger.info("  %d training images with %d boxes, %d validation images", len(images.train), boxes, len(images.val))
    logger.info("Training: %d epochs of %d steps, batch %s", recipe.epochs, job.stepper.steps_per_epoch, batch)
    logger.info("  %d x %d px, %s, on %s", height, width, precision, where)
    if dist.rank() == 0 and state.step == 0:
        plots.plot_labels(images.train, job.run.folder / "labels.png")


def grouped(loader: DataLoader, size: int) -> Iterator[list]:
    """Batches in groups of `size`; the last of an epoch may be smaller."""
    batches = iter(loader)
    while group := list(itertools.islice(batches, size)):
        yield group


if __name__ == "__main__":
    sys.exit(main())

"""Train a detector: build, resume, loop over epochs, evaluate, save.

python train.py --cfg csppeleenet-prn.yaml                        # on the embedded data set
python train.py --cfg cspresnext50-panet-spp.yaml --data my.yaml  # on your own
torchrun --nproc_per_node 8 train.py ...                          # on several GPUs
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.config import check_same_classes, load_data_config, read_split, summarize
from data.dataset import TrainDataset
from data.images import read_image
from data.loader import CACHE_BYTES, TrainSampler, build_eval_loader, build_train_loader, default_workers
from models.build import build_criterion, build_model, check_image_size
from models.config import ModelConfig, load_model_config, model_config_from
from models.detector import Detector
from models.predictor import ModelPredictor, open_predictor
from utils import dist, plots
from utils.boxes import xywh_to_xyxy
from utils.config import ROOT, ConfigError, to_plain
from utils.device import select_device
from utils.log import MetricLog, Progress, duration, error_text, setup_logging
from utils.metrics.detection import FIGURES, DetectionMetric
from utils.run import Run
from utils.structures import Batch, Detections, LabelledImages
from utils.training.checkpoint import load_checkpoint, load_matching_, replace_with_link, save_checkpoint, versions
from utils.training.config import RecipeConfig, load_recipe, recipe_from
from utils.training.optim import freeze_, keep_frozen_statistics_
from utils.training.schedule import learning_rate_factor
from utils.training.state import TrainState, amp_dtype
from utils.training.stop import Stop, graceful_stop
from val import evaluate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """One run, resolved: what config.yaml in the run folder says.

    Args:
        model, recipe: what is trained and how.
        data: path of the data YAML, or 'shapes'.
        image_size: (height, width) of the network input.
        weights: checkpoint to start from; None starts from random weights.
        seed: of weights, order and augmentation.
        workers: loader processes; changes speed only.
    """

    model: ModelConfig
    recipe: RecipeConfig
    data: str
    image_size: tuple[int, int]
    weights: str | None
    seed: int
    workers: int


class TrainingDiverged(ValueError):
    """A loss or gradient is not a finite number; raised before the optimizer moves."""


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
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


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = argparse.ArgumentParser(description="Train a detector.", allow_abbrev=False)
    parser.add_argument("--cfg", help="model: a path, or a name in cfg/")
    parser.add_argument(
        "--data", nargs="?", default="shapes", const="shapes", help="data YAML; default: the embedded set"
    )
    parser.add_argument("--hyp", help="recipe: a path, or a name in cfg/train/ (default: default; for shapes: shapes)")
    parser.add_argument("--weights", help="checkpoint to start from")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, help="images in a batch, over all processes")
    parser.add_argument("--img-size", type=int, help="side of the network input in pixels")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps")
    parser.add_argument("--workers", type=int, help="loader processes")
    parser.add_argument("--seed", type=int, help="of weights, order and augmentation (default 0)")
    parser.add_argument("--resume", nargs="?", const="", metavar="RUN", help="continue a run (default: the newest)")
    parser.add_argument("--project", default=str(ROOT / "runs" / "train"), help="folder of runs")
    parser.add_argument("--name", default="exp", help="folder of this run in PROJECT")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="recipe key, e.g. optimizer.lr=0.01"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch")
    return parser.parse_args(argv)


def resolve(args: argparse.Namespace) -> tuple[TrainConfig, Run | None]:
    """The configuration that the command line asks for, and the run to resume, if any.

    Raises:
        ConfigError: anything wrong with the command line or a file that it names.
    """
    if args.resume is not None:
        return resolve_resumed(args)
    if args.cfg is None:
        known = ", ".join(sorted(path.name for path in (ROOT / "cfg").glob("*.yaml")))
        raise ConfigError(f"--cfg is missing: name a model, for example --cfg csppeleenet-prn.yaml. Known: {known}")
    for_model = [text.removeprefix("model.") for text in args.set if text.startswith("model.")]
    for_recipe = [text for text in args.set if not text.startswith("model.")]
    model = load_model_config(args.cfg, for_model)
    recipe = load_recipe(args.hyp or ("shapes" if args.data == "shapes" else "default"), for_recipe)
    options = {"epochs": args.epochs, "batch_size": args.batch_size, "image_size": args.img_size}
    recipe = replace(recipe, **{key: value for key, value in options.items() if value is not None})
    size = (recipe.image_size, recipe.image_size) if recipe.image_size else model.size
    workers = default_workers() if args.workers is None else args.workers
    data = args.data if args.data == "shapes" else str(load_data_config(args.data).source)
    return TrainConfig(model, recipe, data, size, args.weights, args.seed or 0, workers), None


def resolve_resumed(args: argparse.Namespace) -> tuple[TrainConfig, Run]:
    """The configuration of the run that --resume names; only speed may be changed (--device, --workers, --threads)."""
    fixed = ("cfg", "hyp", "weights", "epochs", "batch_size", "img_size", "seed")
    changed = [f"--{name.replace('_', '-')}" for name in fixed if getattr(args, name) is not None]
    if changed or args.set or args.data != "shapes":
        named = ", ".join([*changed, *(["--set"] if args.set else []), *(["--data"] if args.data != "shapes" else [])])
        raise ConfigError(
            f"--resume continues a run as it was started; leave out {named}, or start a new run --weights"
        )
    run = Run.find(args.resume, Path(args.project))
    saved = run.config()
    where = str(run.folder / "config.yaml")
    try:
        config = TrainConfig(
            model=model_config_from(saved["model"], where=f"{where}: model"),
            recipe=recipe_from(saved["recipe"], where=f"{where}: recipe"),
            data=saved["data"],
            image_size=tuple(saved["image_size"]),
            weights=saved["weights"],
            seed=saved["seed"],
            workers=saved["workers"] if args.workers is None else args.workers,
        )
    except KeyError as error:
        raise ConfigError(f"{where}: key {error} is missing; this is not a run of train.py") from None
    return config, run


def train(config: TrainConfig, run: Run | None, args: argparse.Namespace, device: torch.device, stop: Stop) -> int:
    """Train from the start, or on from `run`; returns the exit status."""
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = config.recipe
    images = read_data(config.data)  # before the process group starts: scanning may take long
    with dist.process_group(device):
        run = run or start_run(config, args)
        torch.manual_seed(config.seed)
        model = build_trainable(config, len(images.names), device, fresh=not run.last.is_file())
        state = TrainState.create(model, recipe, device)
        if run.last.is_file():
            state.load_state_dict(load_checkpoint(run.last))
            logger.info("Continuing %s after epoch %d, batch %d", run.folder, state.epoch, state.batch)
        job = Job.create(config, run, images, model, device)
        log = MetricLog(run.folder, finished_epochs=state.epoch) if dist.rank() == 0 else None
        describe(job, state)
        for epoch in range(state.epoch, recipe.epochs):
            if not train_one_epoch(job, state, stop):
                save(job, state)
                logger.info("Stopped and saved. Continue with: python train.py --resume %s", run.folder)
                return 128 + (stop.signal or 15)
            figures = validate(job, state)
            record(job, state, log, figures)
            if recipe.patience and epoch + 1 - state.best_epoch >= recipe.patience:
                logger.info("No better AP for %d epochs: stopping early after epoch %d", recipe.patience, epoch + 1)
                break
        if dist.rank() == 0:
            log.close()
            finish(job)
        dist.barrier()
    return 0


@dataclass(frozen=True)
class DataSplits:
    """The two splits of a training run and what they are called."""

    train: LabelledImages
    val: LabelledImages
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.train.names


@dataclass(frozen=True, eq=False)
class Job:
    """What does not change during a run.

    Args:
        forward: the model as it is called: in DDP, compiled, or itself.
        metric: of the validation split.
    """

    config: TrainConfig
    run: Run
    images: DataSplits
    device: torch.device
    loader: DataLoader
    sampler: TrainSampler
    val_loader: DataLoader
    criterion: nn.Module
    forward: Callable[[Tensor], list[Tensor]]
    metric: DetectionMetric

    @classmethod
    def create(cls, config: TrainConfig, run: Run, images: DataSplits, model: Detector, device: torch.device) -> Job:
        """Loaders, loss and metric of a run."""
        recipe, size, resize = config.recipe, config.image_size, config.model.resize
        ranks = {"rank": dist.rank(), "world_size": dist.world_size()}
        dataset = TrainDataset(images.train, recipe.augment, image_size=size, resize=resize, seed=config.seed)
        if recipe.cache:
            dataset.fill_cache(limit_bytes=CACHE_BYTES)
        sampler = TrainSampler(
            len(dataset),
            batch_size=recipe.batch_size,
            image_size=size,
            multi_scale=recipe.augment.multi_scale,
            stride=model.stride,
            mix_epochs=recipe.mosaic_epochs,
            seed=config.seed,
            **ranks,
        )
        forward: nn.Module = dist.wrap(model, device)
        if recipe.compile:
            forward = torch.compile(forward)
        evaluation = recipe.evaluation
        return cls(
            config=config,
            run=run,
            images=images,
            device=device,
            loader=build_train_loader(dataset, sampler, workers=config.workers, pin_memory=device.type == "cuda"),
            sampler=sampler,
            val_loader=build_eval_loader(
                images.val,
                image_size=size,
                resize=resize,
                batch_size=recipe.batch_size,
                workers=config.workers,
                **ranks,
            ),
            criterion=build_criterion(model, recipe.loss, where="recipe: loss"),
            forward=forward,
            metric=val_metric(images.val, evaluation.max_det, "faster" if evaluation.fast else "pycocotools"),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer updates in an epoch."""
        return -(-self.sampler.batches // self.config.recipe.accumulate)


def train_one_epoch(job: Job, state: TrainState, stop: Stop) -> bool:
    """The rest of the current epoch; False when somebody asked to stop before its end."""
    state.model.train()
    keep_frozen_statistics_(state.model, job.config.recipe.freeze)
    job.sampler.set_position(state.epoch, state.batch)
    title = f"Epoch {state.epoch + 1}/{job.config.recipe.epochs}"
    last_save = waiting = time.monotonic()
    quiet = dist.rank() != 0
    with Progress(job.sampler.batches, title, start=state.batch, quiet=quiet) as progress:
        for batches in grouped(job.loader, job.config.recipe.accumulate):
            started = time.monotonic()
            if state.step < 3 and not quiet:
                draw_batch(job, batches[0], state.step)
            terms = train_step(job, state, batches)
            now = time.monotonic()
            state.batch += len(batches)
            seen = len(batches) * job.config.recipe.batch_size
            count_up_(
                state.sums, {**terms, "steps": 1, "images": seen, "seconds": now - waiting, "wait": started - waiting}
            )
            waiting = now
            for _ in batches:
                progress.advance(progress_note(state.sums))
            if stop.requested(job.device):
                return False
            if now - last_save > 60 * job.config.recipe.save_minutes:
                save(job, state)
                last_save = now
    return True


def train_step(job: Job, state: TrainState, batches: list[Batch]) -> dict[str, float]:
    """One optimizer update from one or more batches; returns the loss terms, averaged over the batches.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; weights, average and optimizer are as before.
    """
    config, recipe, device = job.config, job.config.recipe, job.device
    factor = learning_rate_factor(
        state.step,
        total_steps=recipe.epochs * job.steps_per_epoch,
        steps_per_epoch=job.steps_per_epoch,
        config=recipe.schedule,
    )
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.optimizer.lr * factor
    dtype = amp_dtype(recipe, device)
    totals: dict[str, float] = {}
    for index, batch in enumerate(batches):
        batch = batch.to(device, channels_last=recipe.channels_last)
        # Ranks exchange gradients once a step, at its last batch.
        wait = index < len(batches) - 1 and hasattr(job.forward, "no_sync")
        with job.forward.no_sync() if wait else contextlib.nullcontext():
            with torch.autocast(device.type, dtype or torch.float32, enabled=dtype is not None):
                raw_maps = job.forward(batch.images)
            terms = job.criterion(raw_maps, batch.targets)
            loss = torch.stack(list(terms.values())).sum()
            values = dict(zip(terms, torch.stack(list(terms.values())).detach().tolist(), strict=True))
            if not all(map(math.isfinite, values.values())):
                raise TrainingDiverged(diverged(state, config, "loss", values, batch))
            # The terms are divided by counts over all ranks and DDP averages over ranks: undo the average.
            state.scaler.scale(loss * dist.world_size() / len(batches)).backward()
        count_up_(totals, {name: value / len(batches) for name, value in values.items()})
    state.scaler.unscale_(state.optimizer)
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, recipe.optimizer.clip_norm or math.inf)
    if not state.scaler.is_enabled() and not torch.isfinite(norm):  # the fp16 scaler skips such steps by itself
        state.optimizer.zero_grad()
        raise TrainingDiverged(diverged(state, config, "gradient", totals, batches[-1]))
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.ema.update_parameters(state.model)
    state.step += 1
    return totals


def diverged(state: TrainState, config: TrainConfig, what: str, values: dict[str, float], batch: Batch) -> str:
    """The message of TrainingDiverged."""
    terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    files = ", ".join(batch.paths[:4]) + (", ..." if len(batch) > 4 else "")
    return (
        f"the {what} of step {state.step + 1} (epoch {state.epoch + 1}) is not a finite number: {terms}; images {files}. "
        f"No weight was changed by this step. Lower optimizer.lr (now {config.recipe.optimizer.lr:g}), lengthen the "
        "warm-up, or set amp=off"
    )


def validate(job: Job, state: TrainState) -> dict[str, Any] | None:
    """Close the epoch and evaluate the averaged weights; None where the recipe skips this epoch."""
    evaluation, recipe = job.config.recipe.evaluation, job.config.recipe
    state.epoch, state.batch = state.epoch + 1, 0
    if state.epoch % evaluation.interval and state.epoch < recipe.epochs:
        return None
    predictor = ModelPredictor(
        state.ema.module,
        names=job.images.names,
        category_ids=job.images.train.category_ids,
        image_size=job.config.image_size,
        resize=job.config.model.resize,
        device=job.device,
    )
    job.metric.reset()
    return evaluate(predictor, job.val_loader, job.metric, **protocol(recipe), over_ranks=dist.is_distributed())


def protocol(recipe: RecipeConfig) -> dict[str, Any]:
    """What `evaluate` is asked for."""
    return {key: getattr(recipe.evaluation, key) for key in ("conf_thres", "iou_thres", "max_det")}


def record(job: Job, state: TrainState, log: MetricLog | None, figures: dict[str, Any] | None) -> None:
    """Note the epoch in results.csv, TensorBoard and the console, then save last.pt and, if it is better, best.pt."""
    sums = state.sums
    improved = figures is not None and figures["AP"] > state.best
    if improved:
        state.best, state.best_epoch = figures["AP"], state.epoch
    row: dict[str, float | None] = {f"loss/{name}": value / sums["steps"] for name, value in losses(sums).items()}
    row |= {key: figures[key] if figures else None for key in ("AP", "AP50", "AP75")}
    row |= {
        "lr": state.optimizer.param_groups[0]["lr"],
        "seconds": sums["seconds"],
        "images_per_second": sums["images"] / sums["seconds"],
        "data_wait_share": sums["wait"] / sums["seconds"],
    }
    if log is not None:
        log.log(state.epoch, row)
        recipe = job.config.recipe
        left = duration((recipe.epochs - state.epoch) * (sums["seconds"] + (figures or {}).get("seconds", 0)))
        scores = "  ".join(f"{key} {row[key]:.3f}" for key in ("AP", "AP50", "AP75")) if figures else "not evaluated"
        terms = "  ".join(f"{name} {value / sums['steps']:.3f}" for name, value in losses(sums).items())
        logger.info(
            "Epoch %d/%d  %s  %s%s  %.1f images/s  %s left",
            state.epoch, recipe.epochs, terms, scores, " *" if improved else "", row["images_per_second"], left,
        )  # fmt: skip
    state.sums = {}
    save(job, state, figures=figures)
    if improved and dist.rank() == 0:
        replace_with_link(job.run.best, job.run.last)


def save(job: Job, state: TrainState, *, figures: dict[str, Any] | None = None) -> None:
    """Write last.pt (rank 0)."""
    if dist.rank() != 0:
        return
    config = job.config
    about = {
        "model": to_plain(config.model),
        "recipe": to_plain(config.recipe),
        "data": config.data,
        "names": list(job.images.names),
        "category_ids": list(job.images.train.category_ids),
        "image_size": list(config.image_size),
        "resize": config.model.resize,
        "seed": config.seed,
        "metrics": {key: figures[key] for key in FIGURES} if figures else None,
        "versions": versions(),
    }
    save_checkpoint(job.run.last, about | state.state_dict())


def finish(job: Job) -> None:
    """The COCO table of best.pt, metrics.json, the last pictures, and what to type next."""
    run, evaluation = job.run, job.config.recipe.evaluation
    plots.plot_results(run.folder / "results.csv", run.folder / "results.png")
    predictor = open_predictor(run.best, device=job.device)
    val = job.images.val
    loader = build_eval_loader(
        val,
        image_size=job.config.image_size,
        resize=job.config.model.resize,
        batch_size=job.config.recipe.batch_size,
        workers=job.config.workers,
    )
    metric = val_metric(val, evaluation.max_det, "pycocotools")
    figures = evaluate(predictor, loader, metric, **protocol(job.config.recipe))
    (run.folder / "metrics.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    recall, precision = metric.pr_curves()
    plots.plot_pr_curves(recall, precision, run.folder / "pr_curve.png")
    draw_predictions(job, metric)
    print(f"\nbest.pt on {job.images.source} val, {len(val)} images, counted by pycocotools:\n{metric.table()}\n")
    folder = val.samples[0].path.parent
    print(f"Results: {run.folder}\nNext: python detect.py --weights {run.best} --source {folder}")


def draw_predictions(job: Job, metric: DetectionMetric, *, count: int = 12) -> None:
    """val_predictions.png: the first validation images, ground truth beside what best.pt finds."""
    val = job.images.val
    found: dict[int, list[dict[str, Any]]] = {}
    for row in metric.predictions():
        found.setdefault(row["image_id"], []).append(row)
    label_of = {category: label for label, category in enumerate(val.category_ids)}
    pairs = []
    for sample in val.samples[:count]:
        rows = [row for row in found.get(sample.image_id, []) if row["score"] >= 0.25]
        detections = Detections(
            boxes=xywh_to_xyxy(torch.tensor([row["bbox"] for row in rows]).reshape(-1, 4)),
            scores=torch.tensor([row["score"] for row in rows]),
            labels=torch.tensor([label_of[row["category_id"]] for row in rows], dtype=torch.int64),
        )
        pairs.append((sample, read_image(sample.path), detections))
    plots.plot_predictions(pairs, val.names, job.run.folder / "val_predictions.png")


def draw_batch(job: Job, batch: Batch, number: int) -> None:
    """train_batch0.png, ...: what the network is shown, with its boxes."""
    path = job.run.folder / f"train_batch{number}.png"
    plots.plot_batch(batch.images, batch.targets, job.images.names, path)


def read_data(source: str) -> DataSplits:
    """The training and validation split, with every bad label told.

    Raises:
        ConfigError: a split that is missing or has no image, or two splits with other names.
    """
    config = load_data_config(source)
    train_images, val_images = (read_split(config, split) for split in ("train", "val"))
    for split, images in (("train", train_images), ("val", val_images)):
        if images.problems:
            logger.warning("%s: %s", split, summarize(images.problems))
    check_same_classes(train_images, val_images)
    return DataSplits(train_images, val_images, source)


def start_run(config: TrainConfig, args: argparse.Namespace) -> Run:
    """A new run folder, made by rank 0."""
    folder = None
    if dist.rank() == 0:
        folder = str(Run.create(Path(args.project), args.name, to_plain(config)).folder)
    return Run(Path(dist.broadcast(folder)))


def build_trainable(config: TrainConfig, num_classes: int, device: torch.device, *, fresh: bool) -> Detector:
    """The model on its device, with initial weights if `fresh`, frozen where the recipe says so."""
    model = build_model(config.model, num_classes)
    check_image_size(model, config.image_size, where="--img-size")
    if config.weights and fresh:
        start_from_(model, Path(config.weights))
    freeze_(model, config.recipe.freeze)
    memory_format = torch.channels_last if config.recipe.channels_last else torch.preserve_format
    return model.to(device, memory_format=memory_format)


def start_from_(model: Detector, path: Path) -> None:
    """Copy the weights of a checkpoint wherever name and shape agree, and say what that was.

    Raises:
        ConfigError: not a checkpoint of ours, or nothing in it fits.
    """
    if path.suffix != ".pt":
        raise ConfigError(f"--weights {path}: expected a checkpoint of CSPDet (.pt)")
    weights = load_checkpoint(path)["ema"]
    loaded, other_shape, absent = load_matching_(model, weights)
    if not loaded:
        raise ConfigError(f"--weights {path}: none of its {len(weights)} tensors fits this model; is it another --cfg?")
    logger.info("Weights: %d of %d tensors loaded from %s", len(loaded), len(model.state_dict()), path)
    for what, names in (("of another shape, left as initialised", other_shape), ("not in the file", absent)):
        if names:
            logger.info("  %d %s: %s%s", len(names), what, ", ".join(names[:6]), ", ..." if len(names) > 6 else "")


def describe(job: Job, state: TrainState) -> None:
    """Say what is about to happen, and draw labels.png."""
    recipe, images = job.config.recipe, job.images
    count = sum(parameter.numel() for parameter in state.model.parameters() if parameter.requires_grad)
    boxes = sum(len(sample.boxes) for sample in images.train.samples)
    logger.info("Run folder: %s", job.run.folder)
    logger.info("Model: %s, %.2f M trainable parameters", job.config.model.name, count / 1e6)
    logger.info(
        "Data: %s, %d training images with %d boxes of %d classes, %d validation images",
        images.source, len(images.train), boxes, len(images.names), len(images.val),
    )  # fmt: skip
    amp = amp_dtype(recipe, job.device)
    logger.info(
        "Training: %d epochs of %d steps at %d x %d px, batch %d%s, %s, on %s%s",
        recipe.epochs,
        job.steps_per_epoch,
        *job.config.image_size,
        recipe.batch_size,
        f" x {recipe.accumulate}" if recipe.accumulate > 1 else "",
        "full precision" if amp is None else str(amp).removeprefix("torch."),
        job.device,
        f" x {dist.world_size()}" if dist.world_size() > 1 else "",
    )
    if dist.rank() == 0 and state.step == 0:
        plots.plot_labels(images.train, job.run.folder / "labels.png")


def val_metric(images: LabelledImages, max_det: int, backend: str) -> DetectionMetric:
    """The metric of a split that was read from disk; objects of images that could not be read count as not found."""
    return DetectionMetric(images.ground_truth, images.category_ids, images.names, max_det=max_det, backend=backend)


def grouped(loader: DataLoader, size: int) -> Iterator[list[Batch]]:
    """Batches in groups of `size`; the last of an epoch may be smaller."""
    batches = iter(loader)
    while group := list(itertools.islice(batches, size)):
        yield group


def count_up_(sums: dict[str, float], values: dict[str, float]) -> None:
    """Add `values` to `sums`."""
    for key, value in values.items():
        sums[key] = sums.get(key, 0.0) + value


def losses(sums: dict[str, float]) -> dict[str, float]:
    """The loss terms among an epoch's sums."""
    return {key: value for key, value in sums.items() if key not in ("steps", "images", "seconds", "wait")}


def progress_note(sums: dict[str, float]) -> str:
    """Mean losses and speed of the epoch so far."""
    terms = " ".join(f"{name} {value / sums['steps']:.3f}" for name, value in losses(sums).items())
    return f"{terms}, {sums['images'] / sums['seconds']:.1f} images/s"


if __name__ == "__main__":
    sys.exit(main())

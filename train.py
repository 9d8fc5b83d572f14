"""Train a detector or a classifier: build, resume, loop over epochs, evaluate, save.

python train.py --cfg csppeleenet-prn.yaml                        # on the embedded data set
python train.py --cfg cspresnext50-panet-spp.yaml --data my.yaml  # on your own
torchrun --nproc_per_node 8 train.py ...                          # on several GPUs
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from data.anchors import fit_anchors_
from data.config import load_data_config
from data.loader import default_workers, eval_loader_of, train_loader_of, train_set_of
from data.read import DataSplits, read_splits
from data.sampler import TrainSampler
from engine.dry_run import Rehearsal, rehearse, removed_afterwards
from engine.failure import Guard, saying_what_is_left
from engine.memory import find_batch_size
from engine.optim import freeze_, keep_frozen_statistics_
from engine.options import parse_train_args, resume_config, total_epochs
from engine.replay import load_replay, repeat
from engine.restart import continued, note_launch
from engine.run_log import EpochLog, describe_training, progress_note
from engine.state import TrainState
from engine.step import StepClock, Stepper, grouped, train_step
from engine.sweeps import OnResult, check_options, train_often
from models.build import build_criterion, build_model, check_image_size, check_recipe, task_of
from models.config import load_model_config, model_config_from
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.normalization import synchronize_norms_
from models.predictor import ModelPredictor, open_predictor
from models.pretrained import start_from_
from models.regularization import regularize_
from utils import dist, plots, task_plots
from utils.checkpoint import load_checkpoint, repair_, replace_with_link, save_checkpoint
from utils.config import ROOT, ConfigError, to_plain
from utils.device import select_device, use_deterministic_kernels
from utils.files import write_json
from utils.launch import Stop, graceful_stop, run_together
from utils.log import MetricLog, Progress, setup_logging
from utils.metrics.build import Metric, build_metric
from utils.provenance import check_same_data, versions
from utils.recipe import TrainConfig, load_recipe, saved_config, settled
from utils.run import Run
from val import evaluate

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_train_args(argv)
    setup_logging(rank=dist.launched_rank())
    return run_together(lambda: run_command(args))


def run_command(args: Namespace) -> int:
    """Train once or often, or repeat a step, as the command line says; returns the exit status."""
    device = select_device(args.device, local_rank=dist.local_rank())
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events, page-locked memory and generators are those of the current one
    if args.replay:
        return replay(Path(args.replay), device)
    args = args if args.seeds else continued(args)  # --seeds finds by its journal what is left
    config, run = resolve(args)
    if run is not None or args.dry_run or not (args.seeds or args.tune):
        return train(config, run, args, device)
    model = model_config_from(config.model, where="model")
    about = {
        "check": functools.partial(check_recipe, model),
        "fingerprint": lambda: read_splits(config.data, task_of(model)).fingerprint(),
    }
    return train_often(config, args, functools.partial(train, device=device), **about)


def resolve(args: Namespace) -> tuple[TrainConfig, Run | None]:
    """The configuration that the command line asks for, and the run to resume, if any.

    Raises:
        ConfigError: anything wrong with the command line or a file that it names.
    """
    if args.resume is not None:
        return resume_config(args)
    check_options(args)
    if args.cfg is None:
        known = ", ".join(sorted(path.name for path in (ROOT / "cfg").glob("*.yaml")))
        raise ConfigError(f"--cfg is missing: name a model, for example --cfg csppeleenet-prn.yaml. Known: {known}")
    data = "shapes" if args.data in (None, "shapes") else str(load_data_config(args.data).source)
    for_model = [text.removeprefix("model.") for text in args.set if text.startswith("model.")]
    for_recipe = [text for text in args.set if not text.startswith("model.")]
    model = load_model_config(args.cfg, for_model)
    usual = "imagenet-small" if task_of(model) == "classify" else "shapes" if data == "shapes" else "default"
    recipe = load_recipe(args.hyp or usual, for_recipe)
    check_recipe(model, recipe)
    size = args.batch_size if args.batch_size != "auto" else None
    options = {"epochs": total_epochs(args.epochs), "batch_size": size, "image_size": args.img_size}
    options["deterministic"] = args.deterministic or None
    recipe = replace(recipe, **{key: value for key, value in options.items() if value is not None})
    size = (recipe.image_size, recipe.image_size) if recipe.image_size else model.size
    workers = default_workers() if args.workers is None else args.workers
    return TrainConfig(to_plain(model), recipe, data, size, args.weights, args.seed or 0, workers), None


def train(
    config: TrainConfig, run: Run | None, args: Namespace, device: torch.device, on_result: OnResult | None = None
) -> int:
    """Train from the start, or on from `run`; returns the exit status.

    Args:
        on_result: called after each evaluation with the epochs done and the main figure; what it raises ends the run.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    if config.recipe.deterministic:
        use_deterministic_kernels()
    task = task_of(model_config_from(config.model, where="model"))
    # All that may take long comes before the process group.
    images = read_splits(config.data, task)
    config = settled(config, len(images.train))
    if run is not None:
        if dist.launched_rank() == 0:
            repair_(run.last, run.best)
        dist.exchange(None)  # the others see what it has mended
        run.check_start()
    fresh = run is None or not run.checkpoint.is_file()
    torch.manual_seed(config.seed)
    model = build_trainable(config, images, device, fresh=fresh, trust=args.trust)
    dataset = train_set_of(images.train, config)
    with dist.process_group(device), graceful_stop() as stop:
        stop.at_once = args.dry_run  # there is nothing to save
        if args.batch_size == "auto":
            config = with_fitting_batch(config, images, model, device)
        state = TrainState.create(model, config.recipe, device)
        # The folder comes last: a mistake in the configuration leaves none behind.
        open_run = functools.partial(start_run, config, args, run)
        job = Job.create(config, images, dataset, model, device, open_run=open_run)
        if args.dry_run:
            return dry_run(job, state)
        if not fresh:
            resume_(job, state)
        with saying_what_is_left(job.run.last, job.run.folder):
            return run_epochs(job, state, stop, on_result)


def run_epochs(job: Job, state: TrainState, stop: Stop, on_result: OnResult | None) -> int:
    """From where `state` is to the end of the training; returns the exit status."""
    recipe, images = job.config.recipe, job.images
    lines = [f"{images.source}, {len(images.names)} classes", images.counts()]
    describe_training(job.config, job.run.folder, job.stepper, state, lines)
    if dist.rank() == 0 and state.step == 0:
        task_plots.plot_labels(images.train, job.run.folder / "labels.png")
    with open_log(job, state) if dist.rank() == 0 else nullcontext() as log:
        for epoch in range(state.epoch, recipe.epochs):
            if state.is_out_of_patience(recipe):
                logger.info("No better result for %d epochs: stopping early after epoch %d", recipe.patience, epoch)
                break
            if not train_one_epoch(job, state, stop):
                save(job, state)
                dist.wait_for_first_rank()  # torchrun ends all when the first ends: not before the checkpoint is whole
                logger.info("Stopped and saved. Continue with: python train.py --resume %s", job.run.folder)
                return 128 + (stop.signal or 15)
            figures = validate(job, state)
            record(job, state, log, figures)
            if on_result is not None and figures is not None:
                on_result(state.epoch, figures[job.metric.columns[0]])
        if log is not None:
            finish(job, log)
    dist.wait_for_first_rank()
    return 0


@dataclass(frozen=True, eq=False)
class Job:
    """What does not change during a run.

    Args:
        stepper: forward pass, loss and recipe of each step.
        metric: of the validation split.
        guard: does the steps, and knows what to do about one that fails.
        about: what every checkpoint says of the data.
    """

    config: TrainConfig
    run: Run
    images: DataSplits
    stepper: Stepper
    loader: DataLoader
    val_loader: DataLoader
    metric: Metric
    guard: Guard
    about: dict[str, Any]

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        images: DataSplits,
        dataset: Dataset,
        model: Detector,
        device: torch.device,
        *,
        open_run: Callable[[], Run],
    ) -> Job:
        """Loaders, loss and metric of a run, and last its folder."""
        recipe, ranks = config.recipe, {"rank": dist.rank(), "world_size": dist.world_size()}
        cuda = device.type == "cuda"
        loader = train_loader_of(dataset, config, stride=model.stride, pin_memory=cuda, **ranks)
        if recipe.sync_bn:
            synchronize_norms_(model, device)
        forward: nn.Module = dist.wrap(model, device)
        stepper = build_stepper(
            config,
            model,
            device,
            forward=torch.compile(forward) if recipe.compile else forward,
            class_counts=images.class_counts(),
            total_steps=loader.batch_sampler.total_steps(recipe.epochs),
        )
        val_loader = eval_loader_of(images.val, config, **ranks)
        metric = build_metric(images.val, backend=recipe.evaluation.backend)
        run = open_run()
        guard = Guard(run.folder, {"config": config, **images.about()})
        about = {**images.about(), "resize": config.model["resize"], "fingerprint": images.fingerprint()}
        return cls(config, run, images, stepper, loader, val_loader, metric, guard, about)

    @property
    def sampler(self) -> TrainSampler:
        """Which images each batch has."""
        return self.loader.batch_sampler


def resume_(job: Job, state: TrainState) -> None:
    """Put the run's checkpoint into `state`, and more epochs than before into config.yaml.

    Raises:
        ConfigError: a damaged checkpoint, or other data than it was trained on.
    """
    saved = load_checkpoint(job.run.checkpoint)
    check_same_data(saved.get("fingerprint"), job.about["fingerprint"], job.images.source)
    state.resume(saved, where=f"{job.run.checkpoint}")
    if dist.rank() == 0 and job.run.checkpoint != job.run.last:
        replace_with_link(job.run.last, job.run.checkpoint)
    epochs = job.config.recipe.epochs
    if dist.rank() == 0 and saved_config(job.run.folder / "config.yaml").recipe.epochs != epochs:
        job.run.lengthen(to_plain(job.config))
        logger.info("Now %d epochs, with the learning rate and the closing of mosaic of so long a run", epochs)
    logger.info("Continuing %s after epoch %d, batch %d", job.run.folder, state.epoch, state.batch)


def open_log(job: Job, state: TrainState) -> EpochLog:
    """The tables of the run, without rows of epochs that are yet to come."""
    table = MetricLog(job.run.folder, finished_epochs=state.epoch)
    epochs, workers = job.config.recipe.epochs, job.config.workers
    return EpochLog(table, epochs=epochs, columns=job.metric.columns, workers=workers)


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
            terms = job.guard.step(train_step, job.stepper, state, batches)
            now = time.perf_counter()
            images = job.sampler.images_in(state.batch, state.batch + len(batches))
            state.batch += len(batches)
            state.count({f"loss/{name}": value for name, value in terms.items()})
            state.count({"steps": bool(terms), "images": images, "seconds": now - mark})
            state.count({f"time/{part}": seconds for part, seconds in clock.take().items()})
            mark = now
            for _ in batches:
                progress.advance(progress_note(state.sums))
            if stop.requested(job.stepper.device):
                return False
            if now - last_save > 60 * recipe.save_minutes:
                save(job, state)
                last_save = now
                clock.restart()
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
    options = job.config.evaluation_options(job.images.task)
    figures = evaluate(predictor, job.val_loader, job.metric, **options, over_ranks=dist.is_distributed())
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
    save(job, state, figures=figures, best=job.run.best if improved else None)


def save(job: Job, state: TrainState, *, figures: dict[str, Any] | None = None, best: Path | None = None) -> None:
    """Write last.pt, and make `best` the same file (rank 0)."""
    if dist.rank() != 0:
        return
    numbers = {key: value for key, value in (figures or {}).items() if isinstance(value, int | float)}
    about = {**to_plain(job.config), **job.about, "metrics": numbers or None, "versions": versions()}
    save_checkpoint(job.run.last, about | state.state_dict(), best=best)


def finish(job: Job, log: EpochLog) -> None:
    """The table of best.pt, metrics.json, the last pictures, and what to type next."""
    folder, val, recipe = job.run.folder, job.images.val, job.config.recipe
    predictor = open_predictor(job.run.best, device=job.stepper.device)
    metric = build_metric(val)
    figures = evaluate(predictor, eval_loader_of(val, job.config), metric, **job.config.evaluation_options(val.task))
    how = {"image_size": list(job.config.image_size), "precision": predictor.precision, "resize": predictor.resize}
    how |= {"nms": predictor.info.nms} if val.task == "detect" else {}
    figures["protocol"] = recipe.evaluation.protocol(val.task) | how
    if val.task == "detect":  # what utils.report compares runs by
        write_json(folder / "predictions.json", metric.predictions())
        write_json(folder / "ground_truth.json", metric.ground_truth)
    write_json(folder / "metrics.json", figures, indent=2)
    plots.plot_results(folder / "results.csv", folder / "results.png")
    task_plots.plot_figures(metric, folder)
    task_plots.plot_found(metric, job.images.pictures(12), val.names, folder / "val_predictions.png")
    log.table.pictures(sorted(folder.glob("*.png")))
    if val.task == "detect":
        log.table.pr_curves(*metric.pr_curves())
    counted = ", counted by pycocotools" if val.task == "detect" else ""
    print(f"\nbest.pt on {job.images.source}, val, {len(val)} images{counted}:\n{metric.table()}\n")
    source = val.samples[0].path.parent
    print(f"Results: {folder}\nNext: python detect.py --weights {job.run.best} --source {source}")


def start_run(config: TrainConfig, args: Namespace, resumed: Run | None) -> Run:
    """The run folder: that of `resumed`, or a new one, made by rank 0."""
    folder = None
    if dist.rank() == 0 and resumed is None:
        name = ".dry-run" if args.dry_run else args.name
        folder = str(Run.create(Path(args.project), name, to_plain(config)).folder)
    run = resumed or Run(Path(dist.broadcast(folder)))
    note_launch(run.folder, args)
    return run


def build_trainable(
    config: TrainConfig, images: DataSplits, device: torch.device, *, fresh: bool, trust: bool = False
) -> Detector:
    """The model on its device, with initial weights and anchors if `fresh`, frozen where the recipe says so."""
    model = build_model(model_config_from(config.model, where="model"), len(images.names), pretrained=fresh)
    check_image_size(model, config.image_size, where="--img-size")
    has_head = bool(config.weights) and fresh and start_from_(model, Path(config.weights), trust=trust)
    # Anchors belong to the head that was trained with them.
    if fresh and not has_head and isinstance(model.head, AnchorHead) and config.recipe.anchor_recall:
        fit_anchors_(model.head, images.train, config)
    regularize_(model, config.recipe)
    freeze_(model, config.recipe.freeze)
    memory_format = torch.channels_last if config.recipe.channels_last else torch.preserve_format
    return model.to(device, memory_format=memory_format)


def build_stepper(
    config: TrainConfig,
    model: Detector,
    device: torch.device,
    *,
    forward: nn.Module,
    class_counts: Sequence[int],
    total_steps: int,
) -> Stepper:
    """What the steps of a run have in common; `forward` is the model as it is called."""
    recipe = config.recipe
    criterion = build_criterion(model, recipe.loss, where="recipe: loss", class_counts=class_counts)
    return Stepper(forward, criterion, recipe, total_steps, config.seed, device, StepClock(device))


def with_fitting_batch(config: TrainConfig, images: DataSplits, model: Detector, device: torch.device) -> TrainConfig:
    """The configuration with the batch size that --batch-size auto finds by trial."""
    few = replace(config.recipe, batch_size=min(16, len(images.train)), cache=False)
    trial = replace(config, recipe=few, workers=0)
    loader = train_loader_of(train_set_of(images.train, trial), trial, stride=model.stride)
    stepper = build_stepper(
        config, model, device, forward=model, class_counts=images.class_counts(), total_steps=config.recipe.epochs
    )
    state, largest = TrainState.create(model, config.recipe, device), loader.batch_sampler.sizes.largest
    size = find_batch_size(stepper, state, next(iter(loader)), size=largest, images=len(images.train))
    return replace(config, recipe=replace(config.recipe, batch_size=size))


def replay(file: Path, device: torch.device) -> int:
    """Do the failed step in a replay file again; 0 if it fails in the same way, 1 if not."""
    found = load_replay(file)
    images = DataSplits(found.images, found.images, found.config.data)
    model = build_trainable(found.config, images, device, fresh=False).train()
    keep_frozen_statistics_(model, found.config.recipe.freeze)
    counts, steps = found.class_counts, found.total_steps
    stepper = build_stepper(found.config, model, device, forward=model, class_counts=counts, total_steps=steps)
    return 0 if repeat(found, stepper, TrainState.create(model, found.config.recipe, device)) else 1


def dry_run(job: Job, state: TrainState) -> int:
    """Try every part of the run, say what it will cost, and leave nothing behind."""
    images, config = job.images, job.config
    every = replace(config.recipe, evaluation=replace(config.recipe.evaluation, interval=1))  # the first epoch too

    def evaluate_few(count: int) -> dict[str, Any] | None:
        few = replace(images.val, samples=images.val.samples[:count])
        loader = eval_loader_of(few, config, rank=dist.rank(), world_size=dist.world_size())
        metric = build_metric(few, backend=config.recipe.evaluation.backend)
        return validate(replace(job, config=replace(config, recipe=every), val_loader=loader, metric=metric), state)

    keep_frozen_statistics_(state.model.train(), config.recipe.freeze)
    with removed_afterwards(job.run.folder):
        rehearsal = Rehearsal(
            stepper=job.stepper,
            state=state,
            step=lambda *arguments: job.guard.step(train_step, *arguments),
            loader=job.loader,
            evaluate=evaluate_few,
            to_evaluate=len(images.val),
            save=lambda: save(job, state),
            checkpoint=job.run.last,
            workers=config.workers,
            problems=sum(len(split.problems) for split in (images.train, images.val)),
        )
        text = rehearse(rehearsal)
    if dist.rank() == 0:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

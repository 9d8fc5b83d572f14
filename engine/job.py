"""The parts of one training, made in this order: what takes long, the process group, the folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.classification import ClassifyDataset
from data.dataset import TrainDataset
from data.loader import eval_loader_of, train_loader_of, train_set_of
from data.read import DataSplits
from data.sampler import TrainSampler
from data.watched_loader import WatchedLoader
from engine.build import build_predictor, build_stepper, build_trainable, check_single_images, settled_for
from engine.memory import find_batch_size
from engine.notes import FileNotes
from engine.options import RunOptions
from engine.predictions import EvaluationOptions
from engine.restart import note_launch
from engine.shared_labels import read_shared
from engine.state import TrainState, check_precision
from engine.step import Stepper
from engine.train_sample import TrainSample, sample_of
from models.build import task_of
from models.config import model_config_from
from models.detector import Detector
from models.normalization import synchronize_norms_
from utils import dist
from utils.checkpoint import repair_
from utils.config import to_plain
from utils.device import use_deterministic_kernels
from utils.launch import Stop, graceful_stop
from utils.lock import RunLock
from utils.memory import use_huge_pages
from utils.metrics.build import Metric, build_metric
from utils.program import end_children
from utils.provenance import numeric_versions, versions
from utils.run import Run
from utils.torchrun import launched_rank
from utils.train_config import TrainConfig


@dataclass(eq=False)
class Prepared:
    """What a training needs before its processes meet: all that may take long, and differ in time between them.

    Args:
        config: with a number for `epochs: auto`.
        dataset: augmented training images.
        model: on its device; with initial weights where the training starts anew.
        files: a number of each image file, by split; on rank 0, and not in a dry run.
    """

    config: TrainConfig
    images: DataSplits
    dataset: TrainDataset | ClassifyDataset
    model: Detector
    device: torch.device
    files: dict[str, Tensor]


@dataclass(eq=False)
class Job:
    """One training with everything that it needs, but for its state.

    Args:
        stepper: forward pass, loss and recipe of each step.
        sampler: which images each batch of `loader` has.
        metric: of the validation split.
        about_data: what every checkpoint says of the run and its data.
        lock: of the run folder, on rank 0.
        sample: of training images, which are evaluated too.
        notes: on image files that are damaged.
        row: of results.csv, with its 'epoch', for the last epoch that has ended; NaN is an empty field. Each checkpoint
            has it, which comes before the table.
    """

    config: TrainConfig
    run: Run
    images: DataSplits
    stepper: Stepper
    loader: WatchedLoader
    sampler: TrainSampler
    val_loader: WatchedLoader
    metric: Metric
    about_data: dict[str, Any]
    lock: RunLock
    sample: TrainSample | None = None
    notes: FileNotes = field(default_factory=FileNotes)
    row: dict[str, float] | None = None


@contextmanager
def opened(
    config: TrainConfig, options: RunOptions, device: torch.device, *, resumed: Run | None = None
) -> Iterator[tuple[Job, TrainState, Stop]]:
    """A training before its first step, inside its process group; a stop is asked for by Ctrl-C or SIGTERM.

    Args:
        resumed: the run to continue; its checkpoint is yet to be loaded.
    Raises:
        ConfigError, ValueError, OSError: something in the configuration, the data or the run does not fit.
    """
    lock = RunLock()
    try:
        prepared = _prepare(config, options, device, resumed, lock)
        with dist.process_group(device), graceful_stop() as stop:
            stop.at_once = options.dry_run  # there is nothing to save
            if options.auto_batch:
                prepared.config = _with_fitting_batch(prepared)
            state = TrainState.create(prepared.model, prepared.config.recipe, device, start=prepared.config.start)
            job = _assemble(prepared, options, resumed, lock)
            try:
                yield job, state, stop
                job.loader.end()
                job.val_loader.end()
                if job.sample is not None:
                    job.sample.loader.end()
            finally:
                end_children()  # while Ctrl-C is still held back; a stopped one would be waited for later
    finally:
        lock.release()


def _prepare(
    config: TrainConfig, options: RunOptions, device: torch.device, resumed: Run | None, lock: RunLock
) -> Prepared:
    check_precision(config.recipe, device)
    if device.type == "cpu":
        use_huge_pages()
    if options.threads:
        torch.set_num_threads(options.threads)
    if config.recipe.deterministic:
        use_deterministic_kernels()
    images = read_shared(config.data, task_of(model_config_from(config.model, where="model")), seed=config.seed)
    config = settled_for(config, images.train)
    if resumed is not None:
        if launched_rank() == 0:
            lock.take(resumed.folder, new=False)
            repair_(resumed.last, resumed.best)
        dist.exchange(None)  # the others see what it has repaired
        resumed.check_start()
    torch.manual_seed(config.seed)
    fresh = resumed is None or not resumed.checkpoint.is_file()
    model, config = build_trainable(config, images, device, fresh=fresh, trust=options.trust)
    files = images.files() if launched_rank() == 0 and not options.dry_run else {}
    return Prepared(config, images, train_set_of(images.train, config), model, device, files)


def _assemble(prepared: Prepared, options: RunOptions, resumed: Run | None, lock: RunLock) -> Job:
    """Loaders, loss and metric, and the run folder last: a mistake in the configuration leaves none behind."""
    config, images, model, device = prepared.config, prepared.images, prepared.model, prepared.device
    recipe, rank, world_size = config.recipe, dist.rank(), dist.world_size()
    loader = train_loader_of(
        prepared.dataset,
        config,
        stride=model.stride,
        pin_memory=device.type == "cuda",
        rank=rank,
        world_size=world_size,
    )
    sampler = sampler_of(loader)
    if recipe.batch_size == world_size and not (recipe.sync_bn and world_size > 1):
        check_single_images(model, recipe, sampler.sizes.smallest)
    if recipe.sync_bn:
        synchronize_norms_(model, device)
    forward: nn.Module = dist.wrap(model, device)
    stepper = build_stepper(
        config,
        model,
        device,
        forward=torch.compile(forward) if recipe.compile else forward,
        class_counts=images.class_counts(),
        total_steps=sampler.total_steps(recipe.total_epochs),
    )
    val_loader = eval_loader_of(images.val, config, rank=rank, world_size=world_size)
    sample = sample_of(images.train, config, rank=rank, world_size=world_size)
    metric = build_metric(images.val, backend=recipe.evaluation.backend, max_det=recipe.evaluation.max_det)
    fingerprint = dist.broadcast(images.fingerprint() if rank == 0 else None)
    about = {**images.about(), "resize": config.model["resize"], "fingerprint": fingerprint}
    run = _run_of(config, options, resumed, lock)
    about |= {"run": lock.run, "files": prepared.files, "began_with": numeric_versions(versions())}
    return Job(config, run, images, stepper, loader, sampler, val_loader, metric, about, lock, sample)


def sampler_of(loader: DataLoader) -> TrainSampler:
    """The TrainSampler of a loader that `train_loader_of` gave."""
    assert isinstance(loader.batch_sampler, TrainSampler)
    return loader.batch_sampler


def _run_of(config: TrainConfig, options: RunOptions, resumed: Run | None, lock: RunLock) -> Run:
    """The run to continue, or a new one, whose folder rank 0 makes."""
    folder = None
    if dist.rank() == 0 and resumed is None:
        name = ".dry-run" if options.dry_run else options.name
        folder = str(Run.create(options.project, name, to_plain(config)).folder)
        lock.take(Path(folder), new=True)
    run = resumed or Run(Path(dist.broadcast(folder)))
    if options.command is not None:
        note_launch(run.folder, options.command)
    return run


def _with_fitting_batch(prepared: Prepared) -> TrainConfig:
    """The configuration with the batch size that --batch-size auto finds by trial."""
    config, images, model, device = prepared.config, prepared.images, prepared.model, prepared.device
    few = replace(config.recipe, batch_size=min(16, len(images.train)), cache=False)
    trial = replace(config, recipe=few, workers=0)
    loader = train_loader_of(train_set_of(images.train, trial), trial, stride=model.stride)
    counts, steps = images.class_counts(), config.recipe.total_epochs
    stepper = build_stepper(config, model, device, class_counts=counts, total_steps=steps)
    state = TrainState.create(model, config.recipe, device, start=config.start)
    largest = sampler_of(loader).sizes.largest
    average = build_predictor(config, images, cast(Detector, state.ema.module), device)
    evaluation = average, EvaluationOptions.of_training(config, images.task)
    first, count = next(iter(loader)), len(images.train)
    size = find_batch_size(stepper, state, first, size=largest, images=count, evaluation=evaluation)
    return replace(config, recipe=replace(config.recipe, batch_size=size))

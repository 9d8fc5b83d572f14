"""The training, in order of time: an epoch, its evaluation, its record, its checkpoint."""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, cast

import torch

from data.balance import describe_classes
from data.sampler import SAMPLE_ORDER
from engine.build import build_predictor
from engine.evaluate import evaluate
from engine.failure import Guard, saying_what_is_left
from engine.finetune import keep_held_statistics_
from engine.finish import finish
from engine.job import Job, opened
from engine.judge import certain_part, judge
from engine.optim import keep_frozen_statistics_
from engine.options import RunOptions
from engine.predictions import EvaluationOptions
from engine.resume import is_finished, resume_
from engine.run_log import EpochLog, describe_training
from engine.search import Trial
from engine.start import begin_, goes_back_, is_before_first_step, is_evaluable, say_if_start_is_best
from engine.state import TrainState
from engine.step import grouped
from engine.train_sample import is_due
from models.detector import Detector
from utils import dist, pictures, plots
from utils.checkpoint import save_checkpoint
from utils.config import to_plain
from utils.inference_weights import check_goes_on
from utils.launch import Stop
from utils.log import MetricLog, Progress
from utils.provenance import versions
from utils.run import Run
from utils.structures import Batch
from utils.train_config import TrainConfig

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    options: RunOptions,
    device: torch.device,
    *,
    resumed: Run | None = None,
    trial: Trial | None = None,
) -> int:
    """Train from the start, or continue `resumed`; returns the exit status.

    Args:
        trial: of a search; it hears of each evaluation, and may end the training by raising Pruned.
    """
    if resumed is not None:
        check_goes_on(resumed.checkpoint, resumed.last)
    with opened(config, options, device, resumed=resumed) as (job, state, stop):
        if job.run.checkpoint.is_file():
            resume_(job, state)
            if is_finished(job, state):
                return 0
        with saying_what_is_left(job.run.last, job.run.folder):
            return run_epochs(job, state, stop, trial=trial)


def run_epochs(job: Job, state: TrainState, stop: Stop, *, trial: Trial | None = None) -> int:
    """From where `state` is to the end of the training; returns the exit status."""
    images = job.images
    lines = [f"{images.source}, {len(images.names)} classes", images.counts()]
    lines += describe_classes(images.train, job.sampler.repeats)
    describe_training(job.config, job.run.folder, job.stepper, state, lines)
    if dist.rank() == 0 and state.step == 0:
        plots.plot_labels(images.train, job.run.folder / "labels.jpg")
    guard = Guard(job.run.folder, {"config": job.config, **images.about()}, notes=job.notes)
    if is_before_first_step(state):
        evaluate_start(job, state)
    status = None
    while status is None:
        with closing(open_log(job, state)) if dist.rank() == 0 else nullcontext() as log:
            status = epochs_from(job, state, guard, stop, log, trial)
    dist.wait_for_first_rank()  # torchrun ends all when the first ends: not before the checkpoint is whole
    return status


def epochs_from(
    job: Job, state: TrainState, guard: Guard, stop: Stop, log: EpochLog | None, trial: Trial | None
) -> int | None:
    """From where `state` is to the end; the exit status, or None where the training has gone back to an epoch."""
    recipe, main = job.config.recipe, job.metric.columns[0]
    for epoch in range(state.epoch, recipe.total_epochs):
        if state.is_out_of_patience(recipe):
            logger.info("No better result for %d epochs: stopping early after epoch %d", recipe.patience, epoch)
            break
        if not train_one_epoch(job, state, guard, stop):
            save(job, state)
            logger.info("Stopped and saved. Continue with: python train.py --resume %s", job.run.folder)
            return 128 + (stop.signal or 15)
        figures = validate(job, state)
        if goes_back_(job, state, figures):
            save(job, state)
            return None
        record(job, state, log, figures)
        if trial is not None and figures is not None:
            trial.report(state.epoch, figures[main])
    say_if_start_is_best(state, main)
    if log is not None:
        finish(job, state, log)
    return 0


def open_log(job: Job, state: TrainState) -> EpochLog:
    """The tables of the run, without rows of epochs that are yet to come."""
    table = MetricLog(job.run.folder, finished_epochs=state.epoch, last=job.row)
    epochs, workers = job.config.recipe.total_epochs, job.config.workers
    columns, sampled = job.metric.columns, job.sample is not None
    return EpochLog(table, epochs=epochs, columns=columns, workers=workers, sampled=sampled)


def train_one_epoch(job: Job, state: TrainState, guard: Guard, stop: Stop) -> bool:
    """The rest of the current epoch; False when somebody asked to stop before its end."""
    recipe, clock, quiet = job.config.recipe, job.stepper.clock, dist.rank() != 0
    state.model.train()
    keep_frozen_statistics_(state.model, recipe.freeze)
    keep_held_statistics_(state.model, recipe, job.config.start, state.epoch)
    job.sampler.set_position(state.epoch, state.batch)
    title = f"Epoch {state.epoch + 1}/{recipe.total_epochs}"
    clock.restart()
    last_save = mark = time.perf_counter()
    with Progress(job.sampler.batches, title, start=state.batch, quiet=quiet) as progress:
        for batches in grouped(job.loader, recipe.accumulate):
            clock.lap("wait")
            if state.step < 3 and not quiet:
                plot_first_batch(job, state, batches[0])
                clock.restart()
            terms = guard.step(job.stepper, state, batches)
            now = time.perf_counter()
            images = job.sampler.images_in(state.batch, state.batch + len(batches))
            state.batch += len(batches)
            state.count({f"loss/{name}": value for name, value in terms.items()})
            state.count({"steps": bool(terms), "images": images, "seconds": now - mark})
            state.count({f"time/{part}": seconds for part, seconds in clock.take().items()})
            mark = now
            for _ in batches:
                progress.advance(state.progress_note())
            if stop.requested(job.stepper.device):
                share_records(job, state)
                return False
            if now - last_save > 60 * recipe.save_minutes:
                save(job, state)
                last_save = now
                clock.restart()
    state.count({f"time/{part}": seconds for part, seconds in clock.take(wait=True).items()})
    share_records(job, state)
    return True


def share_records(job: Job, state: TrainState) -> None:
    """Rank 0 tells and counts the damaged images that the other processes have met, and notes the longest data wait.

    What else an epoch counts (steps that are skipped, overflows) all processes have in common.
    """
    waits = dist.gather(state.sums.get("time/wait", 0.0))
    state.sums["time/wait"] = max(waits)  # the others wait for the slowest, but in their backward pass
    elsewhere, _ = job.notes.share(job.notes.replaced)
    job.notes.replaced = []
    if elsewhere:
        state.count({"bad_images": elsewhere})


def plot_first_batch(job: Job, state: TrainState, batch: Batch) -> None:
    """One of the first batches of the training as a picture, with its boxes."""
    path = job.run.folder / f"train_batch{state.step}.jpg"
    pictures.plot_batch(batch.images, batch.targets, job.images.names, path)


def validate(job: Job, state: TrainState) -> dict[str, Any] | None:
    """Close the epoch and evaluate the averaged weights; None where the recipe skips this epoch.

    'AP_train' is that of some training images, in the epochs in which they are evaluated.
    """
    recipe = job.config.recipe
    state.epoch, state.batch = state.epoch + 1, 0
    if state.epoch % recipe.evaluation.interval and state.epoch < recipe.total_epochs:
        return None
    begin = time.perf_counter()
    figures = average_figures(job, state)
    state.count({"time/evaluation": time.perf_counter() - begin})
    return figures


def evaluate_start(job: Job, state: TrainState) -> None:
    """Evaluate the weights that the training starts from, where they know classes of the data: its epoch 0."""
    figures = average_figures(job, state) if is_evaluable(job) else None
    begin_(job, state, figures)
    if state.start is not None:
        save(job, state, figures=figures, best=job.run.best)


def average_figures(job: Job, state: TrainState) -> dict[str, Any]:
    """The figures of the averaged weights."""
    # Each rank has its own statistics of batch normalisation; those of rank 0 are saved, so they are evaluated.
    dist.copy_from_first_rank_(state.ema.module.buffers())
    average = cast(Detector, state.ema.module)
    predictor = build_predictor(job.config, job.images, average, job.stepper.device)
    job.metric.reset()
    options = EvaluationOptions.of_training(job.config, job.images.task, job.images.val.tiling)
    over_ranks = dist.is_distributed()
    figures = evaluate(predictor, job.val_loader, job.metric, options, over_ranks=over_ranks, notes=job.notes)
    if job.sample is not None and state.epoch and is_due(state.epoch, job.config.recipe):
        loader, metric = job.sample.loader, job.sample.metric
        metric.reset()
        options = EvaluationOptions.of_training(job.config, job.images.task)
        known = evaluate(predictor, loader, metric, options, over_ranks=over_ranks, notes=job.notes)
        figures["AP_train"] = known["AP"]
    return figures


def record(job: Job, state: TrainState, log: EpochLog | None, figures: dict[str, Any] | None) -> None:
    """Save last.pt and, if it is better, best.pt; then note the epoch in results.csv, TensorBoard and the console.

    The checkpoint has the row of the table: whatever happens between the two, nothing is lost.
    """
    main = job.metric.columns[0]
    improved = figures is not None and state.note_result(figures[main], certain=certain_part(job, state, figures))
    row = {} if log is None else log.row(state, figures)
    job.row = {"epoch": state.epoch} | {key: math.nan if value is None else value for key, value in row.items()}
    sums, state.sums, before = state.sums, {}, state.verdict
    if log is not None and figures is not None:
        state.verdict = judge(job, state, log, row)
    save(job, state, figures=figures, best=job.run.best if improved else None)
    if log is not None:
        log.write(state, row, sums, evaluated=figures is not None, improved=improved)
        log.tell(state.verdict, before)


def save(job: Job, state: TrainState, *, figures: dict[str, Any] | None = None, best: Path | None = None) -> None:
    """Write last.pt, and make `best` the same file (rank 0)."""
    if dist.rank() != 0:
        return
    numbers = {key: value for key, value in (figures or {}).items() if isinstance(value, int | float)}
    about = {**to_plain(job.config), **job.about_data, "metrics": numbers or None, "versions": versions()}
    about["sample_order"] = SAMPLE_ORDER
    if job.row is not None:
        about["row"] = job.row
    save_checkpoint(job.run.last, about | state.state_dict(), best=best)

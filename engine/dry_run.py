"""--dry-run: every part of a training once, on little data, and what the whole will take."""

from __future__ import annotations

import itertools
import logging
import math
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data.loader import eval_loader_of
from engine.failure import Guard
from engine.job import Job, opened
from engine.loop import save, validate
from engine.optim import keep_frozen_statistics_
from engine.options import RunOptions
from engine.state import TrainState
from utils import dist
from utils.checkpoint import copied, load_checkpoint, same_values
from utils.lock import RunLock
from utils.log import duration, say
from utils.memory import children_bytes, free_memory, gigabytes, peak_resident_bytes, reset_gpu_peak
from utils.metrics.build import build_metric
from utils.recipe import ScheduleConfig
from utils.structures import Batch
from utils.train_config import TrainConfig

logger = logging.getLogger(__name__)

STEPS, LEAST_STEPS, SECONDS = 30, 6, 60.0
"""On one batch: at most so many steps, at least so many, and no new one after so many seconds."""

BATCHES, LOAD_SECONDS = 8, 20.0
"""That are loaded for the pace of the loader: at most so many, and none after so many seconds."""

EVALUATED = (4, 20)
"""Images of two short evaluations: their difference is what an image takes, without what every evaluation does once.

The second has a whole batch for each process at least, which must find its memory.
"""

CHECKPOINTS = 3
"""That a run keeps: last.pt, the one before it, best.pt."""


class DryRunFailed(ValueError):
    """A part of the rehearsal went wrong; the message says which."""


@contextmanager
def removed_afterwards(folder: Path, lock: RunLock) -> Iterator[None]:
    """Delete the folder of a dry run when the block ends, but for a replay file in it; its lock is given back first."""
    try:
        yield
        dist.barrier()  # not after an error: the others may be elsewhere
    finally:
        lock.release()  # Windows deletes no file that is open
        if dist.rank() == 0:
            replays = set(folder.glob("replay_*.pt"))
            for path in [path for path in folder.iterdir() if path not in replays]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not replays:
                folder.rmdir()


@dataclass(frozen=True)
class Measured:
    """Seconds of each part of a training, and what they take of memory and disk.

    Args:
        batch: to load one; step: to do one; evaluation: of the whole split; checkpoint: to write one.
        losses: of each step on one batch.
        evaluated: images that were, for the estimate.
    """

    batch: float
    step: float
    evaluation: float
    checkpoint: float
    losses: list[float]
    evaluated: int
    workers_bytes: int
    checkpoint_bytes: int


def dry_run(config: TrainConfig, options: RunOptions, device: torch.device) -> int:
    """Try every part of a training, print what it will cost, and leave nothing behind; returns the exit status.

    Raises:
        DryRunFailed: the loss on one batch does not fall, a checkpoint comes back changed, or the disk is too small.
        ValueError, OSError: what the parts themselves raise.
    """
    with opened(config, options, device) as (job, state, _):
        with removed_afterwards(job.run.folder, job.lock):
            text = report(job, measure(job, state))
        if dist.rank() == 0:
            say(text)
    return 0


def measure(job: Job, state: TrainState) -> Measured:
    """Try all parts of a training, and put the state back as it was.

    Raises:
        DryRunFailed, ValueError, OSError: as in `dry_run`.
    """
    keep_frozen_statistics_(state.model.train(), job.config.recipe.freeze)
    before = copied(state.state_dict())
    reset_gpu_peak(job.stepper.device)
    logger.info("Dry run, 1 of 4: loading batches")
    batches, load_seconds, workers_bytes = _load(job)
    logger.info("Dry run, 2 of 4: up to %d steps on one batch", STEPS)
    losses, step_seconds = _overfit(job, state, batches)
    counts = _counts(job)
    logger.info("Dry run, 3 of 4: evaluating %d images", counts[-1])
    evaluation_seconds, evaluated = _evaluate(job, state, counts)
    logger.info("Dry run, 4 of 4: a checkpoint, written and read back")
    checkpoint_seconds, checkpoint_bytes = _check_checkpoint(job, state)
    state.load_state_dict(before)
    state.optimizer.zero_grad()
    return Measured(
        batch=load_seconds,
        step=step_seconds,
        evaluation=evaluation_seconds,
        checkpoint=checkpoint_seconds,
        losses=losses,
        evaluated=evaluated,
        workers_bytes=workers_bytes,
        checkpoint_bytes=checkpoint_bytes,
    )


def report(job: Job, measured: Measured) -> str:
    """What was measured, one line a subject.

    Raises:
        DryRunFailed: the disk has too little room.
    """
    recipe, to_evaluate = job.config.recipe, len(job.images.val)
    steps = job.stepper.steps_per_epoch
    # A process that loads for itself cannot train meanwhile.
    pace = max(measured.step, measured.batch) if job.config.workers else measured.step + measured.batch
    epoch = steps * pace + measured.evaluation / recipe.evaluation.interval + measured.checkpoint
    disk, free = CHECKPOINTS * measured.checkpoint_bytes, shutil.disk_usage(job.run.last.parent).free
    if disk > free:
        raise DryRunFailed(
            f"{job.run.last.parent}: the checkpoints of a run take {gigabytes(disk)}, and the disk has "
            f"{gigabytes(free)} free; make room, or choose another --project"
        )
    count = sum(len(split.problems) for split in (job.images.train, job.images.val))
    problems = f"{count} problem{'s' * (count != 1)}"
    waits = "; loading is what takes longest" if measured.batch > measured.step else ""
    losses, whole = measured.losses, _seconds(measured.evaluation)
    lines = [
        *([] if job.images.tiles is None else [f"tiles       {job.images.tiles}"]),
        f"data        {problems} in the labels; a step's images load in {_seconds(measured.batch)}{waits}",
        f"one batch   loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} steps",
        f"evaluation  {measured.evaluated} images; all {to_evaluate} in about {whole}",
        f"checkpoint  {measured.checkpoint_bytes / 1e6:,.1f} MB, read back to the last bit",
        f"time        {duration(epoch)} an epoch ({steps:.0f} steps of {_seconds(pace)}, then evaluation and "
        f"checkpoint), {duration(epoch * recipe.total_epochs)} for {recipe.total_epochs} epochs",
        f"memory      {_memory(job, measured)}",
        f"disk        {disk / 1e6:,.1f} MB for {CHECKPOINTS} checkpoints, of {gigabytes(free)} free",
    ]
    return "Dry run: everything works.\n" + "\n".join(f"  {line}" for line in lines)


def _load(job: Job) -> tuple[list[Batch], float, int]:
    """The batches of one step, seconds to load those of a step, and memory of the loader processes."""
    count = job.config.recipe.accumulate
    kept: list[Batch] = []
    times: list[float] = []
    processes = 0
    begin = time.perf_counter()
    for batch in itertools.islice(job.loader, max(BATCHES, count)):
        times.append(time.perf_counter() - begin)
        kept = [*kept, batch] if len(kept) < count else kept
        processes = max(processes, children_bytes())
        # Rank 0 decides: all must load as many batches, and below do as many steps.
        if dist.broadcast(times[-1] > LOAD_SECONDS and len(kept) == count):
            break
    # Whoever starts the processes pays for the first batch, and gets several at once after it.
    each = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[-1]
    return kept, each * count, processes


def _overfit(job: Job, state: TrainState, batches: list[Batch]) -> tuple[list[float], float]:
    """The loss of each of some steps on the same batches, and the seconds that one takes.

    Raises:
        DryRunFailed: it does not fall.
    """
    # At the peak of the learning rate after five steps, which a real schedule takes far longer for.
    schedule = ScheduleConfig(warmup_epochs=0, warmup_steps=5)
    recipe = replace(job.config.recipe, schedule=schedule, finetune=None)  # all of it moves, which costs most
    stepper = replace(job.stepper, recipe=recipe, total_steps=10 * STEPS)
    guard = Guard(job.run.folder, {"config": job.config, **job.images.about()})
    losses: list[float] = []
    times: list[float] = []
    begin = time.perf_counter()
    for number in range(STEPS):
        terms = guard.step(stepper, state, batches)
        if stepper.device.type == "cuda":
            torch.cuda.synchronize(stepper.device)
        losses.append(sum(terms.values()) if terms else math.nan)
        times.append(time.perf_counter() - begin)
        if dist.broadcast(number + 1 >= LEAST_STEPS and times[-1] > SECONDS):
            break
    each = [two - one for one, two in itertools.pairwise(times)]
    last = statistics.mean(losses[-3:])
    if not last < losses[0]:
        raise DryRunFailed(
            f"the loss on one batch does not fall: {losses[0]:.4g} at first, {last:.4g} after {len(losses)} steps at "
            f"learning rate {recipe.lr:g}; lower optimizer.lr, and look at the labels (python -m data.doctor)"
        )
    return losses, statistics.median(each)


def _counts(job: Job) -> list[int]:
    """How many images the short evaluations have, ascending."""
    few, some = EVALUATED
    whole = (job.val_loader.batch_size or 1) * dist.world_size()
    return sorted({min(count, len(job.images.val)) for count in (few, max(some, whole))})


def _evaluate(job: Job, state: TrainState, counts: list[int]) -> tuple[float, int]:
    """Seconds that an evaluation of all images will take, and how many were evaluated for that.

    Args:
        counts: images of each evaluation, one or two.
    """
    config, val = job.config, job.images.val
    recipe = replace(config.recipe, evaluation=replace(config.recipe.evaluation, interval=1))  # the first epoch too
    seconds = []
    for count in counts:
        few = replace(val, samples=val.samples[:count])
        loader = eval_loader_of(few, config, rank=dist.rank(), world_size=dist.world_size())
        metric = build_metric(few, backend=recipe.evaluation.backend, max_det=recipe.evaluation.max_det)
        short = replace(job, config=replace(config, recipe=recipe), val_loader=loader, metric=metric, sample=None)
        begin = time.perf_counter()
        validate(short, state)
        loader.end()
        seconds.append(time.perf_counter() - begin)
    if len(counts) == 1:
        return seconds[0] * len(val) / counts[0], counts[0]
    each = max(seconds[1] - seconds[0], 0.0) / (counts[1] - counts[0])
    return seconds[1] + each * (len(val) - counts[1]), counts[1]


def _check_checkpoint(job: Job, state: TrainState) -> tuple[float, int]:
    """Seconds to write a checkpoint, and its bytes.

    Raises:
        DryRunFailed: it comes back changed.
    """
    begin = time.perf_counter()
    save(job, state)
    seconds = time.perf_counter() - begin
    if dist.rank() != 0:
        return seconds, 0
    saved, own = load_checkpoint(job.run.last), state.state_dict()
    changed = [key for key in own if not same_values(saved.get(key), own[key])]
    if changed:
        raise DryRunFailed(f"{job.run.last}: comes back with other values in {', '.join(changed)}; is the disk sound?")
    return seconds, job.run.last.stat().st_size


def _memory(job: Job, measured: Measured) -> str:
    device, own = job.stepper.device, dist.gather([peak_resident_bytes(), measured.workers_bytes])
    main = "unknown" if own[0][0] is None else gigabytes(sum(map(sum, own)))
    workers = job.config.workers * len(own)
    text = f"{main} at most, {workers} loader processes included"
    if device.type != "cuda":
        free = free_memory(device)
        return text if free is None else f"{text}; {gigabytes(free)} free now"
    peak, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    return f"{gigabytes(peak)} of {gigabytes(total)} on {device}; {text}"


def _seconds(value: float) -> str:
    return f"{value:.2f}s" if value < 10 else duration(value)

"""--dry-run: every part of a training once, on little data, and what the whole will take."""

from __future__ import annotations

import itertools
import logging
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from engine.state import TrainState
from engine.step import Stepper
from utils import dist
from utils.checkpoint import copied, load_checkpoint, same_values
from utils.log import duration
from utils.memory import (
    children_bytes,
    free_memory,
    gigabytes,
    gpu_peak_reserved,
    peak_resident_bytes,
    reset_gpu_peak,
)
from utils.recipe import ScheduleConfig
from utils.structures import Batch

logger = logging.getLogger(__name__)

STEPS, LEAST_STEPS, SECONDS = 30, 6, 60.0
"""On one batch: at most so many steps, at least so many, and no new one after so many seconds."""

BATCHES, LOAD_SECONDS = 8, 20.0
"""That are loaded for the pace of the loader: at most so many, and none after so many seconds."""

EVALUATED = (4, 20)
"""Images of two short evaluations: their difference is what an image takes, without what every evaluation does once."""

CHECKPOINTS = 3
"""That a run keeps: last.pt, the one before it, best.pt."""


class DryRunFailed(ValueError):
    """A part of the rehearsal went wrong; the message says which."""


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """What is tried out.

    Args:
        step: does a step, as in the run.
        loader: of training batches; accumulate of them make a step.
        evaluate: evaluates so many of the `to_evaluate` validation images; returns the figures.
        save: writes a checkpoint to `checkpoint`.
        workers: loader processes.
        problems: in the labels.
    """

    stepper: Stepper
    state: TrainState
    step: Callable[[Stepper, TrainState, list[Batch]], dict[str, float]]
    loader: Iterable[Batch]
    evaluate: Callable[[int], dict[str, Any] | None]
    to_evaluate: int
    save: Callable[[], None]
    checkpoint: Path
    workers: int
    problems: int


@contextmanager
def removed_afterwards(folder: Path) -> Iterator[None]:
    """Delete the folder of a dry run when the block ends, but for a replay file in it."""
    try:
        yield
        dist.barrier()  # not after an error: the others may be elsewhere
    finally:
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


def rehearse(parts: Rehearsal) -> str:
    """Try all parts, put the state back as it was, and give the report.

    Raises:
        DryRunFailed: the loss on one batch does not fall, a checkpoint comes back changed, or the disk is too small.
        ValueError, OSError: what the parts themselves raise.
    """
    before = copied(parts.state.state_dict())
    reset_gpu_peak(parts.stepper.device)
    logger.info("Dry run, 1 of 4: loading batches")
    batches, load_seconds, workers_bytes = _load(parts)
    logger.info("Dry run, 2 of 4: up to %d steps on one batch", STEPS)
    losses, step_seconds = _overfit(parts, batches)
    logger.info("Dry run, 3 of 4: evaluating %d images", min(EVALUATED[-1], parts.to_evaluate))
    evaluation, evaluated = _evaluate(parts)
    logger.info("Dry run, 4 of 4: a checkpoint, written and read back")
    save_seconds, size = _check_checkpoint(parts)
    parts.state.load_state_dict(before)
    parts.state.optimizer.zero_grad()
    measured = Measured(load_seconds, step_seconds, evaluation, save_seconds, losses, evaluated, workers_bytes, size)
    return report(parts, measured)


def report(parts: Rehearsal, found: Measured) -> str:
    """What was found, one line a subject.

    Raises:
        DryRunFailed: the disk has too little room.
    """
    recipe = parts.stepper.recipe
    steps = parts.stepper.steps_per_epoch
    # A process that loads for itself cannot train meanwhile.
    pace = max(found.step, found.batch) if parts.workers else found.step + found.batch
    evaluation = found.evaluation / recipe.evaluation.interval
    epoch = steps * pace + evaluation + found.checkpoint
    disk, free = CHECKPOINTS * found.checkpoint_bytes, shutil.disk_usage(parts.checkpoint.parent).free
    if disk > free:
        raise DryRunFailed(
            f"{parts.checkpoint.parent}: the checkpoints of a run take {gigabytes(disk)}, and the disk has "
            f"{gigabytes(free)} free; make room, or choose another --project"
        )
    waits = "; loading is what takes longest" if found.batch > found.step else ""
    lines = [
        f"data        {parts.problems} problems in the labels; a step's images load in {_seconds(found.batch)}{waits}",
        f"one batch   loss {found.losses[0]:.3f} -> {found.losses[-1]:.3f} in {len(found.losses)} steps",
        f"evaluation  {found.evaluated} images; all {parts.to_evaluate} in about {_seconds(found.evaluation)}",
        f"checkpoint  {found.checkpoint_bytes / 1e6:,.1f} MB, read back to the last bit",
        f"time        {duration(epoch)} an epoch ({steps:.0f} steps of {_seconds(pace)}, then evaluation and "
        f"checkpoint), {duration(epoch * recipe.total_epochs)} for {recipe.total_epochs} epochs",
        f"memory      {_memory(parts, found)}",
        f"disk        {disk / 1e6:,.1f} MB for {CHECKPOINTS} checkpoints, of {gigabytes(free)} free",
    ]
    return "Dry run: everything works.\n" + "\n".join(f"  {line}" for line in lines)


def _load(parts: Rehearsal) -> tuple[list[Batch], float, int]:
    """The batches of one step, seconds to load those of a step, and memory of the loader processes."""
    count = parts.stepper.recipe.accumulate
    kept, times, processes = [], [], 0
    begin = time.perf_counter()
    for batch in itertools.islice(parts.loader, max(BATCHES, count)):
        times.append(time.perf_counter() - begin)
        kept = [*kept, batch] if len(kept) < count else kept
        processes = max(processes, children_bytes())
        if _agreed(times[-1] > LOAD_SECONDS and len(kept) == count):
            break
    # Whoever starts the processes pays for the first batch, and gets several at once after it.
    each = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[-1]
    return kept, each * count, processes


def _overfit(parts: Rehearsal, batches: list[Batch]) -> tuple[list[float], float]:
    """The loss of each of some steps on the same batches, and the seconds that one takes.

    Raises:
        DryRunFailed: it does not fall.
    """
    # At the peak of the learning rate after five steps, which a real schedule takes far longer for.
    schedule = ScheduleConfig(warmup_epochs=0, warmup_steps=5)
    recipe = replace(parts.stepper.recipe, schedule=schedule)
    stepper = replace(parts.stepper, recipe=recipe, total_steps=10 * STEPS)
    losses, times = [], []
    begin = time.perf_counter()
    for number in range(STEPS):
        terms = parts.step(stepper, parts.state, batches)
        if parts.stepper.device.type == "cuda":
            torch.cuda.synchronize(parts.stepper.device)
        losses.append(sum(terms.values()) if terms else math.nan)
        times.append(time.perf_counter() - begin)
        if _agreed(number + 1 >= LEAST_STEPS and times[-1] > SECONDS):
            break
    each = [two - one for one, two in itertools.pairwise(times)]
    last = statistics.mean(losses[-3:])
    if not last < losses[0]:
        raise DryRunFailed(
            f"the loss on one batch does not fall: {losses[0]:.4g} at first, {last:.4g} after {len(losses)} steps at "
            f"learning rate {recipe.lr:g}; lower optimizer.lr, and look at the labels (python -m data.doctor)"
        )
    return losses, statistics.median(each)


def _evaluate(parts: Rehearsal) -> tuple[float, int]:
    """Seconds that an evaluation of all images will take, and how many were evaluated for that."""
    counts = sorted({min(count, parts.to_evaluate) for count in EVALUATED})
    seconds = []
    for count in counts:
        begin = time.perf_counter()
        parts.evaluate(count)
        seconds.append(time.perf_counter() - begin)
    if len(counts) == 1:
        return seconds[0] * parts.to_evaluate / counts[0], counts[0]
    each = max(seconds[1] - seconds[0], 0.0) / (counts[1] - counts[0])
    return seconds[1] + each * (parts.to_evaluate - counts[1]), counts[1]


def _check_checkpoint(parts: Rehearsal) -> tuple[float, int]:
    """Seconds to write a checkpoint, and its bytes.

    Raises:
        DryRunFailed: it comes back changed.
    """
    begin = time.perf_counter()
    parts.save()
    seconds = time.perf_counter() - begin
    if dist.rank() != 0:
        return seconds, 0
    saved, own = load_checkpoint(parts.checkpoint), parts.state.state_dict()
    changed = [key for key in own if not same_values(saved.get(key), own[key])]
    if changed:
        raise DryRunFailed(
            f"{parts.checkpoint}: comes back with other values in {', '.join(changed)}; is the disk sound?"
        )
    return seconds, parts.checkpoint.stat().st_size


def _memory(parts: Rehearsal, found: Measured) -> str:
    device, own = parts.stepper.device, dist.gather([peak_resident_bytes(), found.workers_bytes])
    main = "unknown" if own[0][0] is None else gigabytes(sum(map(sum, own)))
    workers = parts.workers * len(own)
    text = f"{main} at most, {workers} loader processes included"
    if device.type != "cuda":
        free = free_memory(device)
        return text if free is None else f"{text}; {gigabytes(free)} free now"
    peak, total = gpu_peak_reserved(device), torch.cuda.get_device_properties(device).total_memory
    return f"{gigabytes(peak)} of {gigabytes(total)} on {device}; {text}"


def _seconds(value: float) -> str:
    return f"{value:.2f}s" if value < 10 else duration(value)


def _agreed(decision: bool) -> bool:
    """Rank 0's decision, on every rank: all must do the same number of steps."""
    return dist.broadcast(decision)

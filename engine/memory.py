"""How many images fit into memory, found by trial."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import interpolate

from data.loader import MOST_EVALUATED
from engine.predictions import EvaluationOptions, try_batch
from engine.state import TrainState
from engine.step import Stepper
from engine.trial_step import scratch_of, try_step, with_images
from models.info import Predictor
from utils import dist
from utils.faults import is_out_of_memory
from utils.memory import PeakMemory, bytes_in_use, empty_cache, free_memory, gigabytes, release_unused
from utils.structures import Batch

logger = logging.getLogger(__name__)

MOST_ON_CPU, MOST_ON_GPU = 32, 256
"""Larger batches bring no speed there, and training wants steps rather than large ones."""

LEAST_STEPS, SMALLEST = 10, 4
"""An epoch has at least so many steps, unless batches then had fewer images than this."""

MEASURED_ON_CPU = 8
"""Images up to which a CPU tries batches out; beyond, memory is extrapolated, since trying takes minutes there."""

SHARE = 0.85
"""Of the free memory that a batch may take: fragments, other image sizes and the display need the rest."""


@dataclass(frozen=True)
class Fit:
    """The largest power of two that a device has room for.

    Args:
        size: images.
        taken: bytes at that size; None if unknown.
        limit: what ended the search: 'memory', or 'most' where the caller allowed no more.
    """

    size: int
    taken: int | None
    limit: str


def find_batch_size(
    stepper: Stepper,
    state: TrainState,
    batch: Batch,
    *,
    size: tuple[int, int],
    images: int,
    evaluation: tuple[Predictor, EvaluationOptions] | None = None,
) -> int:
    """The batch size over all processes for --batch-size auto: a power of two for each process, found by trial.

    Args:
        state: of a training that has not begun; its weights stay as they are.
        batch: of the training set.
        size: largest (height, width) of the training.
        images: in the training set.
        evaluation: the average as a predictor, and what to count: its batches must find room too.
    Raises:
        ValueError: not even one image fits.
    """
    device, processes = stepper.device, dist.world_size()
    stretched = interpolate(batch.images, size) if tuple(batch.images.shape[2:]) != tuple(size) else batch.images
    batch = replace(batch, images=stretched)
    most = MOST_ON_CPU if device.type == "cpu" else MOST_ON_GPU
    sensible = max(images // (LEAST_STEPS * processes), min(SMALLEST, images) // processes)
    at_most = max(min(most, sensible), 1)
    reserve: list[torch.Tensor] = []

    def take_reserve(count: int) -> None:
        reserve.append(torch.ones(count, dtype=torch.uint8, device=device))

    def trial(count: int) -> None:
        try_step(stepper, state, [with_images(batch, count)])
        if evaluation is not None:
            predictor, options = evaluation
            try_batch(predictor, with_images(batch, min(count, MOST_EVALUATED)), options)

    has_room, _ = _measure(take_reserve, _later_bytes(stepper, state, processes), device)
    room = free_memory(device)  # beside what comes later
    fit = largest_fit(trial, at_most=at_most, device=device, room=room) if has_room else None
    reserve.clear()
    state.optimizer.zero_grad()
    release_unused(device)
    # Every process must hear of it when one finds no room.
    fits = dist.gather(None if fit is None else (fit.size, fit.taken, fit.limit))
    if None in fits:
        free = "" if room is None else f" ({gigabytes(room)} free)"
        raise ValueError(
            f"--batch-size auto: not even one image of {size[0]} x {size[1]} px fits into the memory of {device}{free}"
            "; take a smaller --img-size or model, or close other programs that use the device"
        )
    fit = Fit(*min(fits, key=lambda each: each[0]))
    _tell(fit, stepper, size=size, room=room, processes=processes)
    return fit.size * processes


def fitting_part(stepper: Stepper, state: TrainState, batch: Batch) -> int | None:
    """How many images of a batch that was too large would have fitted, on this process; None if not one."""
    release_unused(stepper.device)
    count = len(batch) // 2
    while count:
        if _fits(stepper, state, with_images(batch, count)):
            return count
        release_unused(stepper.device)
        count //= 2
    return None


def _fits(stepper: Stepper, state: TrainState, batch: Batch) -> bool:
    try:
        again, scratch = scratch_of(stepper, state)
        later = 0 if state.optimizer.state else _later_bytes(stepper, state, 1)
        reserve = torch.ones(later, dtype=torch.uint8, device=stepper.device)
        try_step(again, scratch, [batch])
        del reserve
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _later_bytes(stepper: Stepper, state: TrainState, processes: int) -> int:
    """What comes with the first update: the optimizer's records, and the buckets in which ranks exchange gradients."""
    weights = sum(p.numel() * p.element_size() for p in state.model.parameters() if p.requires_grad)
    records = 2 if stepper.recipe.optimizer.type == "adamw" else 1
    return weights * (records + (processes > 1))


def _tell(fit: Fit, stepper: Stepper, *, size: tuple[int, int], room: int | None, processes: int) -> None:
    taken = "" if fit.taken is None or room is None else f", about {gigabytes(fit.taken)} of {gigabytes(room)} free"
    why = {
        "memory": f"twice as many take more than {SHARE:.0%} of the memory",
        "most": f"more would leave fewer than {LEAST_STEPS} steps an epoch, or bring no speed on {stepper.device.type}",
    }
    times = f" x {processes} processes" if processes > 1 else ""
    logger.info("Batch size: %d%s by trial (%d x %d px%s); %s", fit.size, times, *size, taken, why[fit.limit])
    planned = stepper.recipe.batch_size
    if planned != fit.size * processes and stepper.recipe.optimizer.lr_batch is None:
        rate = stepper.recipe.optimizer.lr
        logger.info(
            "  The recipe's learning rate %g was made for batches of %d (--set optimizer.lr changes it)", rate, planned
        )


def largest_fit(trial: Callable[[int], None], *, at_most: int, device: torch.device, room: int | None) -> Fit | None:
    """The largest power of two up to `at_most` whose trial stays within `SHARE` of the room; None if not even 1 does.

    Args:
        trial: does a step with so many images; may raise what `is_out_of_memory` knows.
        room: free bytes; None leaves it to the trials.
    """
    fit: Fit | None = None
    size = 1
    measured: dict[int, int] = {}
    base = bytes_in_use(device) or 0
    limit = math.inf if room is None else SHARE * room
    while size <= at_most:
        taken = _extrapolate(measured, size)
        is_guess = device.type == "cpu" and size > MEASURED_ON_CPU and taken is not None
        if taken is not None and taken > limit:
            return fit and replace(fit, limit="memory")
        if not is_guess:
            fits, peak = _measure(trial, size, device)
            taken = None if peak is None else peak - base
            if not fits or (taken or 0) > limit:
                return fit and replace(fit, limit="memory")
            if taken is not None:
                measured[size] = taken
        fit = Fit(size, taken, "most")
        size *= 2
    return fit


def _measure(trial: Callable[[int], None], size: int, device: torch.device) -> tuple[bool, int | None]:
    """Whether a trial had enough memory, and the bytes in use at its highest point."""
    try:
        with PeakMemory(device) as peak:
            trial(size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        empty_cache(device)
        return True, peak.bytes
    release_unused(device)
    return False, None


def _extrapolate(measured: dict[int, int], size: int) -> int | None:
    """Memory at `size` on the line through the last two measurements."""
    if len(measured) < 2:
        return None
    (one, first), (two, second) = list(measured.items())[-2:]
    return round(second + (second - first) / (two - one) * (size - two))

"""The batch size that fits into memory: for --batch-size auto, and for the message when memory ran out."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch.nn.functional import interpolate

from utils import dist
from utils.structures import Batch
from utils.training.memory import SHARE, Fit, free_memory, is_out_of_memory, largest_fit, release_unused
from utils.training.scratch import scratch_of, try_step, with_images
from utils.training.state import TrainState
from utils.training.step import Stepper

logger = logging.getLogger(__name__)

MOST_ON_CPU, MOST_ON_GPU = 32, 256
"""Larger batches bring no speed there, and training wants steps rather than large ones."""

LEAST_STEPS, SMALLEST = 10, 4
"""An epoch has at least so many steps, unless batches then had fewer images than this."""


def find_batch_size(stepper: Stepper, state: TrainState, batch: Batch, *, size: tuple[int, int], images: int) -> int:
    """The batch size over all processes for --batch-size auto: a power of two for each process, found by trial.

    Args:
        state: of a training that has not begun; its weights stay as they are.
        batch: of the training set.
        size: largest (height, width) of the training.
        images: in the training set.
    Raises:
        ValueError: not even one image fits.
    """
    device, processes = stepper.device, dist.world_size()
    stretched = interpolate(batch.images, size) if tuple(batch.images.shape[2:]) != tuple(size) else batch.images
    batch = replace(batch, images=stretched)
    most = MOST_ON_CPU if device.type == "cpu" else MOST_ON_GPU
    sensible = max(images // (LEAST_STEPS * processes), min(SMALLEST, images) // processes)
    at_most = max(min(most, sensible), 1)
    room = free_memory(device)
    reserve = torch.ones(_later_bytes(stepper, state, processes), dtype=torch.uint8, device=device)

    def trial(count: int) -> None:
        try_step(stepper, state, [with_images(batch, count)])

    fit = largest_fit(trial, at_most=at_most, device=device, room=room)
    del reserve
    state.optimizer.zero_grad()
    release_unused(device)
    # Every process must hear of it when one finds no room.
    fits = dist.gather(None if fit is None else (fit.size, fit.taken, fit.limit))
    if None in fits:
        raise ValueError(_nothing_fits(stepper, size, room))
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


def _nothing_fits(stepper: Stepper, size: tuple[int, int], room: int | None) -> str:
    free = "" if room is None else f" ({gigabytes(room)} free)"
    return (
        f"--batch-size auto: not even one image of {size[0]} x {size[1]} px fits into the memory of {stepper.device}"
        f"{free}; take a smaller --img-size or model, or close other programs that use the device"
    )


def gigabytes(count: int) -> str:
    """Bytes for people."""
    if count < 1e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"

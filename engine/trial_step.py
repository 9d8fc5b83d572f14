"""A step that is tried out: on a copy of the model, on this process alone, with no trace in the run."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from engine.optim import build_optimizer
from engine.state import Snapshot, TrainState, amp_dtype, random_state, set_random_state
from engine.step import StepClock, Stepper, TrainingDiverged, begin_batch, loss_terms, train_step
from utils import dist
from utils.structures import Batch


def scratch_of(stepper: Stepper, state: TrainState, *, amp: Literal["off"] | None = None) -> tuple[Stepper, TrainState]:
    """What `try_step` works with: the state before the last step that was begun, with weights of its own.

    Args:
        amp: another precision than the recipe's.
    """
    recipe = replace(stepper.recipe, amp=amp or stepper.recipe.amp)
    model = copy.deepcopy(state.model)
    stepper.before.restore_buffers_(model)
    enabled = amp_dtype(recipe, stepper.device) is torch.float16
    scaler = torch.amp.GradScaler(stepper.device.type, enabled=enabled, init_scale=max(state.scaler.get_scale(), 1.0))
    other = replace(state, model=model, optimizer=build_optimizer(model, recipe.optimizer), scaler=scaler, sums={})
    clock, before = StepClock(stepper.device), Snapshot()
    return replace(stepper, forward=model, recipe=recipe, clock=clock, before=before), other


def try_step(
    stepper: Stepper, state: TrainState, batches: list[Batch], *, rng: dict[str, Tensor] | None = None
) -> TrainingDiverged | None:
    """Forward and backward pass with what `scratch_of` gave; the error of a step that is not finite, else None.

    Args:
        rng: the random numbers to start from; those of the run are as before afterwards.
    """
    now = random_state()
    set_random_state(rng or now)
    try:
        with dist.alone():
            train_step(stepper, state, batches, update=False)
    except TrainingDiverged as error:
        return error
    finally:
        set_random_state(now)
        stepper.before.restore_buffers_(state.model)
    return None


def try_forward(
    stepper: Stepper, state: TrainState, batches: list[Batch], *, rng: dict[str, Tensor]
) -> TrainingDiverged | None:
    """As `try_step`, without the backward pass, which takes most of the memory: only a loss can be found so."""
    now = random_state()
    set_random_state(rng or now)
    try:
        with dist.alone():
            for index, batch in enumerate(batches):
                batch = begin_batch(stepper, state, batch, index=index, count=len(batches))
                with torch.no_grad():
                    terms = {name: float(value) for name, value in loss_terms(stepper, batch).items()}
                if not all(map(math.isfinite, terms.values())):
                    return TrainingDiverged("loss", state, terms, index)
    finally:
        set_random_state(now)
    return None


def with_images(batch: Batch, count: int) -> Batch:
    """A batch of `count` images: the first ones of `batch`, from the start again where it has too few."""
    picks = [number % len(batch) for number in range(count)]
    rows = [torch.nonzero(batch.targets.image_index == index).flatten() for index in picks]
    image_index = torch.cat([torch.full((len(mine),), number) for number, mine in enumerate(rows)])
    return replace(
        batch,
        images=batch.images[picks],
        targets=replace(batch.targets.select(torch.cat(rows)), image_index=image_index),
        image_ids=tuple(batch.image_ids[index] for index in picks),
        paths=tuple(batch.paths[index] for index in picks),
        letterboxes=(),
    )

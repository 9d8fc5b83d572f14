"""One optimizer update."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.dist import sum_over_ranks, world_size
from utils.structures import Batch, Targets
from utils.training.clock import StepClock
from utils.training.config import RecipeConfig
from utils.training.optim import set_norm_momentum_
from utils.training.schedule import learning_rate_factor
from utils.training.state import TrainState, amp_dtype


class TrainingDiverged(ValueError):
    """A loss or gradient is not a finite number; raised before the optimizer moves."""


@dataclass(frozen=True, eq=False)
class Stepper:
    """What every step of a run has in common.

    Args:
        forward: the model as it is called (in DDP, compiled, or itself): images -> raw maps.
        criterion: (raw maps, Targets) -> loss terms, divided by counts over all ranks.
        steps_per_epoch: optimizer updates in an epoch.
        clock: counts the time of each part of a step.
    """

    forward: Callable[[Tensor], list[Tensor]]
    criterion: Callable[[list[Tensor], Targets], dict[str, Tensor]]
    recipe: RecipeConfig
    steps_per_epoch: int
    device: torch.device
    clock: StepClock


def train_step(stepper: Stepper, state: TrainState, batches: list[Batch]) -> dict[str, float]:
    """One optimizer update from one or more batches; returns the loss terms of all ranks, averaged over the batches.

    Raises:
        TrainingDiverged: a loss or gradient is not finite, on any rank; weights and average are as before.
    """
    recipe = stepper.recipe
    set_learning_rate_(state, stepper)
    set_norm_momentum_(state.model, state.step, recipe.norm_momentum)
    totals: dict[str, float] = {}
    for index, batch in enumerate(batches):
        # Ranks exchange gradients once a step, at its last batch.
        wait = index < len(batches) - 1 and hasattr(stepper.forward, "no_sync")
        with stepper.forward.no_sync() if wait else contextlib.nullcontext():
            terms = loss_terms(stepper, batch)
            values = dict(zip(terms, sum_over_ranks(torch.stack(list(terms.values()))).tolist(), strict=True))
            if not all(map(math.isfinite, values.values())):
                raise TrainingDiverged(_message(state, recipe, "loss", values, batch))
            stepper.clock.lap("forward")
            # The terms are divided by counts over all ranks, and DDP averages over ranks: undo the average.
            state.scaler.scale(sum(terms.values()) * world_size() / len(batches)).backward()
            stepper.clock.lap("backward")
        for name, value in values.items():
            totals[name] = totals.get(name, 0.0) + value / len(batches)
    state.scaler.unscale_(state.optimizer)
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, recipe.optimizer.clip_norm or math.inf)
    if not state.scaler.is_enabled() and not torch.isfinite(norm):  # the fp16 scaler skips such steps by itself
        state.optimizer.zero_grad()
        raise TrainingDiverged(_message(state, recipe, "gradient", totals, batches[-1]))
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.ema.update_parameters(state.model)
    state.step += 1
    stepper.clock.lap("optimizer")
    return totals


def loss_terms(stepper: Stepper, batch: Batch) -> dict[str, Tensor]:
    """Forward pass and loss of one batch, in the recipe's precision."""
    recipe, device = stepper.recipe, stepper.device
    batch = batch.to(device, channels_last=recipe.channels_last)
    dtype = amp_dtype(recipe, device)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        raw_maps = stepper.forward(batch.images)
    return stepper.criterion(raw_maps, batch.targets)


def set_learning_rate_(state: TrainState, stepper: Stepper) -> None:
    """Give the optimizer the learning rate of the coming step."""
    recipe = stepper.recipe
    factor = learning_rate_factor(
        state.step,
        total_steps=recipe.epochs * stepper.steps_per_epoch,
        steps_per_epoch=stepper.steps_per_epoch,
        config=recipe.schedule,
    )
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.optimizer.lr * factor


def _message(state: TrainState, recipe: RecipeConfig, what: str, values: dict[str, float], batch: Batch) -> str:
    terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    files = ", ".join(batch.paths[:4]) + (", ..." if len(batch) > 4 else "")
    return (
        f"the {what} of step {state.step + 1} (epoch {state.epoch + 1}) is not a finite number: {terms}; "
        f"images {files}. No weight was changed by this step. Lower optimizer.lr (now "
        f"{recipe.optimizer.lr:g}), lengthen the warm-up, or set amp=off"
    )

"""One optimizer update."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from engine.adversarial import attacked, is_attacked
from engine.finetune import drop_held_gradients_, is_new, share_of_rate, trained_momentum
from engine.optim import learning_rate_factor, warmup_length
from engine.state import Snapshot, TrainState, amp_dtype
from utils.dist import copy_from_first_rank_, rank, sum_over_ranks, world_size
from utils.finetune_config import StartConfig
from utils.recipe import RecipeConfig
from utils.structures import Batch, Targets


class TrainingDiverged(ValueError):
    """A loss or gradient is not a finite number; raised before the optimizer moves.

    Args:
        quantity: 'loss' or 'gradient'.
        step, epoch: which, counted from 1.
        terms: of the loss, as far as they were known.
        batch: of the step's batches the one whose loss it is; None for a gradient, which is of all of them.
    """

    def __init__(self, quantity: str, state: TrainState, terms: dict[str, float], batch: int | None = None) -> None:
        self.quantity, self.terms, self.batch = quantity, terms, batch
        self.step, self.epoch = state.step + 1, state.epoch + 1
        shown = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        super().__init__(f"the {quantity} of step {self.step} (epoch {self.epoch}) is not a finite number: {shown}")


class StepClock:
    """Seconds by part. On CUDA they are measured on the device, by events, so that measuring waits for nothing.

    Args:
        device: what computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self.seconds: dict[str, float] = {}
        self.pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.mark: Any = self._now()
        """Seconds, or a CUDA event."""

    def restart(self) -> None:
        """The time since the last lap belongs to no part."""
        self.mark = self._now()

    def lap(self, part: str) -> None:
        """The time since the last lap belongs to `part`."""
        now = self._now()
        if self.on_cuda:
            self.pending.append((part, self.mark, now))
        else:
            self._add(part, now - self.mark)
        self.mark = now

    def take(self, *, wait: bool = False) -> dict[str, float]:
        """Seconds of each part since the last call; `wait` includes what the device has not finished."""
        if self.pending and wait:
            torch.cuda.synchronize()
        while self.pending and self.pending[0][2].query():
            part, begin, end = self.pending.pop(0)
            self._add(part, begin.elapsed_time(end) / 1000)
        taken, self.seconds = self.seconds, {}
        return taken

    def _add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def _now(self) -> Any:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Criterion(Protocol):
    """A loss of models/losses/. One that changes over the training has `begin_batch` too, as layers have it."""

    def __call__(self, raw_maps: Any, targets: Targets, /) -> dict[str, Tensor]:
        """Scalars by name, divided by counts over all ranks."""

    def background(self, raw_maps: Any, /) -> Tensor:
        """The loss for images without any object, a sum over all images; what self-adversarial training needs."""


@dataclass(eq=False)
class Stepper:
    """What every step of a run has in common.

    Args:
        forward: the model as it is called (in DDP, compiled, or itself): images (B, 3, H, W) -> raw maps.
        total_steps: optimizer updates in the whole training.
        seed: of what is drawn in a step: DropBlock, self-adversarial training.
        clock: counts the time of each part of a step.
        start: what the weights of a start gave, where the recipe fine-tunes them.
        before: what a step that fails may have changed, as it was.
    """

    forward: Callable[[Tensor], Any]
    criterion: Criterion
    recipe: RecipeConfig
    total_steps: int
    seed: int
    device: torch.device
    clock: StepClock
    start: StartConfig | None = None
    before: Snapshot = field(default_factory=Snapshot)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer updates in an epoch; their mean, where batches grow and epochs differ."""
        return self.total_steps / self.recipe.total_epochs


def train_step(stepper: Stepper, state: TrainState, batches: list[Batch], *, update: bool = True) -> dict[str, float]:
    """One optimizer update from one or more batches; returns the loss terms of all ranks, averaged over the batches.

    Args:
        update: False stops before the optimizer moves, with the gradients dropped.
    Raises:
        TrainingDiverged: a loss or gradient is not finite, on any rank; weights and average are as before.
    """
    recipe = stepper.recipe
    stepper.before.take_(state.model)
    set_learning_rate_(state, stepper)
    gentle = trained_momentum(state.optimizer, recipe)
    losses: list[Tensor] = []
    for index, batch in enumerate(batches):
        batch = begin_batch(stepper, state, batch, index=index, count=len(batches))
        # Ranks exchange gradients once a step, at its last batch.
        no_sync = getattr(stepper.forward, "no_sync", None) if index < len(batches) - 1 else None
        with (
            no_sync() if no_sync else contextlib.nullcontext(),
            norm_statistics(state.model, state.step, recipe.norm_momentum, start=stepper.start, gentle=gentle),
        ):
            terms = loss_terms(stepper, batch)
            stepper.clock.lap("loss")
            # The terms are divided by counts over all ranks, and DDP averages over ranks: undo the average.
            total = functools.reduce(torch.add, terms.values())
            state.scaler.scale(total * world_size() / len(batches)).backward()
            stepper.clock.lap("backward")
        losses.append(torch.stack(list(terms.values())).detach())
    drop_held_gradients_(state.optimizer, recipe, state.epoch)
    norm = clip_gradients_(state, recipe.optimizer.clip_norm)
    stepper.clock.lap("clip")
    # Here the host waits for the device, and nowhere else.
    *rows, (size, *_) = torch.stack((*sum_over_ranks(torch.stack(losses)), norm.expand_as(losses[0]))).tolist()
    values = [dict(zip(terms, row, strict=True)) for row in rows]
    totals = {name: sum(each[name] / len(batches) for each in values) for name in terms}
    _check_finite(state, values, totals, size)
    if not update:
        drop_gradients_(state)
        return totals
    if not math.isfinite(size):
        state.count({"overflows": 1})
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    stepper.clock.lap("optimizer")
    state.ema.update_parameters(state.model)
    state.step += 1
    stepper.clock.lap("average")
    return totals


def _check_finite(state: TrainState, losses: list[dict[str, float]], totals: dict[str, float], norm: float) -> None:
    """Raise TrainingDiverged, with the gradients dropped, if a step must not be carried out.

    Args:
        losses: the terms of each batch; `totals` of all.
        norm: of the gradients.
    """
    bad = [index for index, terms in enumerate(losses) if not all(map(math.isfinite, terms.values()))]
    # At a scale above 1 it is part of finding fp16's scale: the scaler leaves the step out and takes a smaller one.
    if not bad and (math.isfinite(norm) or (state.scaler.is_enabled() and state.scaler.get_scale() > 1)):
        return
    drop_gradients_(state)
    if bad:
        raise TrainingDiverged("loss", state, losses[bad[0]], bad[0])
    raise TrainingDiverged("gradient", state, totals)


def clip_gradients_(state: TrainState, limit: float | None) -> Tensor:
    """Scale all gradients down together so that their norm is at most `limit`; returns the norm (), as it was."""
    state.scaler.unscale_(state.optimizer)
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if limit is not None:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Batches in groups of `size`, one a step; the last of an epoch may be smaller."""
    batches = iter(batches)
    while group := list(itertools.islice(batches, size)):
        yield group


def begin_batch(stepper: Stepper, state: TrainState, batch: Batch, *, index: int, count: int) -> Batch:
    """Batch `index` of the `count` of a step, attacked where the recipe says so; layers are told what comes.

    All that is drawn at random in the step is a function of (seed, step, index, rank), so that it can be done again.
    """
    recipe, step = stepper.recipe, state.step
    torch.manual_seed(int(np.random.SeedSequence((stepper.seed, step, index, rank())).generate_state(1)[0]))
    progress = step / stepper.total_steps
    begin_batch_(state.model, index=index, count=count, progress=progress)
    if callable(begin := getattr(stepper.criterion, "begin_batch", None)):
        begin(index=index, count=count, progress=progress)
    warmup = warmup_length(
        total_steps=stepper.total_steps, steps_per_epoch=stepper.steps_per_epoch, config=recipe.schedule
    )
    if step < warmup or not is_attacked(recipe.adversarial, seed=stepper.seed, step=step, index=index):
        return batch
    copy_from_first_rank_(state.model.buffers())  # DDP does so too, but only in its own forward
    return attacked(
        state.model,
        stepper.criterion.background,
        batch.to(stepper.device, channels_last=recipe.channels_last),
        strength=recipe.adversarial.lr * step / stepper.total_steps,
        amp=amp_dtype(recipe, stepper.device),
    )


def drop_gradients_(state: TrainState) -> None:
    """Forget the gradients of a step that is not carried out."""
    state.optimizer.zero_grad()
    if state.scaler.is_enabled():
        state.scaler.update(state.scaler.get_scale())  # it has noted this step's gradients too


def loss_terms(stepper: Stepper, batch: Batch) -> dict[str, Tensor]:
    """Forward pass and loss of one batch, in the recipe's precision."""
    recipe, device = stepper.recipe, stepper.device
    batch = batch.to(device, channels_last=recipe.channels_last)
    dtype = amp_dtype(recipe, device)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        raw_maps = stepper.forward(batch.images)
    stepper.clock.lap("forward")
    return stepper.criterion(raw_maps, batch.targets)


def set_learning_rate_(state: TrainState, stepper: Stepper) -> None:
    """Give the optimizer the learning rate of the coming step."""
    recipe, total, per_epoch = stepper.recipe, stepper.total_steps, stepper.steps_per_epoch
    factor = learning_rate_factor(state.step, total_steps=total, steps_per_epoch=per_epoch, config=recipe.schedule)
    for group in state.optimizer.param_groups:
        share = share_of_rate(group, recipe, state.step, total_steps=total, steps_per_epoch=per_epoch)
        group["lr"] = recipe.lr * factor * share


def begin_batch_(model: nn.Module, *, index: int, count: int, progress: float) -> None:
    """Call `begin_batch` of every layer that has it (CrossBatchNorm2d, DropBlock).

    Args:
        index, count: the coming batch's place among those of its step.
        progress: of the training, in [0, 1].
    """
    for module in model.modules():
        if callable(begin := getattr(module, "begin_batch", None)):
            begin(index=index, count=count, progress=progress)


@contextmanager
def norm_statistics(
    model: nn.Module, step: int, least: float, *, start: StartConfig | None = None, gentle: float = 0.0
) -> Iterator[None]:
    """The weight of the batch that runs in this block in the running statistics of batch normalisation.

    A plain mean over the steps at first, then `least`. Statistics start at mean 0 and variance 1. Without the plain
    mean that start would stay in them for some 100 steps, and a deep network evaluated on them finds nothing.

    While the weight still changes, layers take the batch in whole (momentum 1), and what they then hold is averaged
    with what they held before: for a compiled model each other momentum would be another program.

    Args:
        start: of weights that are fine-tuned: statistics that came with them are worth more than a few batches, and
            take these in by `gentle`.
    """
    weight = 1 / (step + 1)
    norms = {
        norm: start is None or is_new(name, start)
        for name, norm in model.named_modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training
    }
    young = [norm for norm, is_own in norms.items() if is_own and weight > least]
    statistics = [buffer for norm in young for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
    for norm, is_own in norms.items():
        norm.momentum = (1.0 if weight > least else least) if is_own else gentle
    before = [buffer.clone() for buffer in statistics] if weight > least else []
    yield
    if before:
        with torch.no_grad():
            torch._foreach_lerp_(before, statistics, weight)
            torch._foreach_copy_(statistics, before)

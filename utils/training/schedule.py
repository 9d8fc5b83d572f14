"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from utils.training.config import ScheduleConfig


def learning_rate_factor(step: int, *, total_steps: int, steps_per_epoch: float, config: ScheduleConfig) -> float:
    """What the peak learning rate is multiplied by at `step`, counted from 0.

    Args:
        total_steps: of the whole training.
        steps_per_epoch: their mean, where epochs differ.
    Returns:
        A factor in (0, 1].
    """
    warmup = warmup_length(total_steps=total_steps, steps_per_epoch=steps_per_epoch, config=config)
    rise = min((step + 1) / (warmup + 1), 1.0) ** config.warmup_power
    progress = min(step / max(total_steps, 1), 1.0)
    if config.type == "step":
        return rise * config.factor ** sum(progress >= milestone for milestone in config.milestones)
    if config.type == "poly":
        return rise * (1 - progress) ** config.power
    if config.type == "sgdr" and config.cycle_epochs is not None and progress < 1:
        progress = progress_in_cycle(step, config.cycle_epochs * steps_per_epoch, config.cycle_mult)
    return rise * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress)))


def warmup_length(*, total_steps: int, steps_per_epoch: float, config: ScheduleConfig) -> float:
    """Steps in which the rate rises."""
    return min(max(config.warmup_epochs * steps_per_epoch, config.warmup_steps), 0.2 * total_steps)


def progress_in_cycle(step: int, length: float, mult: float) -> float:
    """Share of its cycle, in [0, 1), that lies behind `step`, where the first cycle has `length` steps.

    Each cycle is `mult` times as long as the one before and begins at the peak; darknet's starts one step later.
    """
    length = max(length, 1.0)
    if mult == 1:
        return step % length / length
    begin = 0.0
    while step >= begin + length:
        begin, length = begin + length, length * mult
    return (step - begin) / length

"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from utils.training.config import ScheduleConfig


def learning_rate_factor(step: int, *, total_steps: int, steps_per_epoch: int, config: ScheduleConfig) -> float:
    """What the peak learning rate is multiplied by at `step`, counted from 0.

    Args:
        total_steps: of the whole training.
    Returns:
        A factor in (0, 1].
    """
    wanted = max(config.warmup_epochs * steps_per_epoch, config.warmup_steps)
    warmup = min(wanted, 0.2 * total_steps)
    rise = min((step + 1) / (warmup + 1), 1.0) ** config.warmup_power
    progress = min(step / max(total_steps, 1), 1.0)
    if config.type == "step":
        return rise * config.factor ** sum(progress >= milestone for milestone in config.milestones)
    return rise * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress)))

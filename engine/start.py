"""A training that starts from weights: the start is evaluated, and what follows from its figure is settled."""

from __future__ import annotations

import logging
from typing import Any

from engine.finetune import average_begins_at, head_epochs_of, next_rate, trained_rate
from engine.job import Job
from engine.state import TrainState
from utils.checkpoint import load_checkpoint
from utils.log import first_few
from utils.metrics.figures import figure_text

logger = logging.getLogger(__name__)


def is_evaluable(job: Job) -> bool:
    """Whether a training starts from weights that know classes of the data."""
    return job.config.start is not None and job.config.start.known > 0


def is_before_first_step(state: TrainState) -> bool:
    """Whether nothing is done, not even the evaluation of the start."""
    return state.start is None and (state.epoch, state.batch, state.step) == (0, 0, 0)


def begin_(job: Job, state: TrainState, figures: dict[str, Any] | None) -> None:
    """Note the figures of the start as those of epoch 0, and set the rates of what it gave.

    Args:
        figures: None where the start could not be evaluated.
    """
    figure = None if figures is None else figures[job.metric.columns[0]]
    if figures is not None:
        scores = "  ".join(f"{key} {figure_text(figures[key])}" for key in job.metric.columns)
        known, all_classes = job.config.start.known if job.config.start else 0, len(job.images.names)
        classes = "" if known == all_classes else f", which knows {known} of {all_classes} classes"
        logger.info("Epoch 0  the start%s  %s", classes, scores)
    state.note_start(figure)
    finetune, start = job.config.recipe.finetune, job.config.start
    if finetune is None or start is None:
        return
    rate = 1.0 if finetune.rate == "auto" else finetune.rate
    watched = ", and at a tenth of it if the first epochs are worse than the start" if finetune.rate == "auto" else ""
    _set_rate_(state, rate)
    state.ema.n_averaged = average_begins_at(figure or 0.0, job.stepper.total_steps)
    text = "Fine-tuning: loaded weights learn at %g times the learning rate of new ones%s"
    logger.info(text, rate, watched if figure else "")
    if start.new:
        new, alone = first_few(start.new, 5), head_epochs_of(job.config.recipe)
        logger.info("  new: %s; with the head, they learn alone for %d epochs", new, alone)


def goes_back_(job: Job, state: TrainState, figures: dict[str, Any] | None) -> bool:
    """Whether the epoch that has just ended shows that loaded weights learn too fast (`finetune.rate: auto`).

    Then the training begins anew with a lower rate, from the averaged weights of best.pt: the start's, or those of a
    better epoch. (The weights that are trained have been damaged before their average shows it.)
    """
    finetune, column = job.config.recipe.finetune, job.metric.columns[0]
    if figures is None or not state.start or finetune is None or finetune.rate != "auto":
        return False
    figure, epoch, start = figures[column] or 0.0, state.epoch, state.start
    epochs = job.config.recipe.total_epochs
    rate = next_rate(trained_rate(state.optimizer), figure=figure, start=start, epoch=epoch, epochs=epochs)
    if rate is None:
        return False
    state.begin_again(load_checkpoint(job.run.best)["ema"])
    state.ema.n_averaged = average_begins_at(state.best, job.stepper.total_steps)
    _set_rate_(state, rate)
    job.row = None
    where = "the start" if state.start == start else f"the best epoch, which had {figure_text(state.best)}"
    text = (
        "Epoch %d  %s %s, the start had %s: beginning anew from %s; loaded weights learn at %g times the learning rate"
    )
    logger.info(text, epoch, column, figure_text(figure), figure_text(start), where, rate)
    return True


def _set_rate_(state: TrainState, rate: float) -> None:
    for group in state.optimizer.param_groups:
        if group["trained"]:
            group["rate"] = rate


def say_if_start_is_best(state: TrainState, column: str) -> None:
    """Say at the end that no epoch was better than the start, where that is so."""
    if state.start is not None and state.best_epoch == 0:
        logger.info("No epoch was as good as the start, %s %s: best.pt is the start", column, figure_text(state.start))

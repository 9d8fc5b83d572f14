"""What is thought of an evaluation beside its figures: whether they are noise, and what the curves so far mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.job import Job
from engine.run_log import EpochLog
from engine.state import NOISE, TrainState
from engine.train_sample import is_due
from engine.verdict import verdict_of
from utils import dist
from utils.metrics.bootstrap import ap_interval
from utils.metrics.coco import COCO_LIMIT
from utils.metrics.detection import DetectionMetric


def certain_part(job: Job, state: TrainState, figures: Mapping[str, Any]) -> float:
    """What `TrainState.note_result` has to know of an evaluation beside its main figure; every rank calls this.

    Resampling takes seconds on a large val, so it is done only while it can change something: in most runs for one
    epoch or two, when AP leaves zero.

    Returns:
        The lower end of the 95 % interval of AP over the images of val; infinity where nobody asks.
    """
    metric, value = job.metric, figures[job.metric.columns[0]]
    if state.told_apart or not isinstance(metric, DetectionMetric):
        return math.inf
    if value is None or value < state.best or value <= NOISE:
        return -math.inf
    low = None
    if dist.rank() == 0:
        limit = max(COCO_LIMIT, job.config.recipe.evaluation.max_det)
        low, _ = ap_interval(metric.ground_truth, metric.predictions(), max_det=limit, seed=job.config.seed)
    return dist.broadcast(low)


def judge(job: Job, state: TrainState, log: EpochLog, row: Mapping[str, float | None]) -> dict[str, Any] | None:
    """The verdict after the epoch that has just been evaluated, as plain values.

    It is a function of the table and of this evaluation, so that a run that was killed comes to the same. Between two
    counts of the training images the last verdict holds.

    Args:
        row: of the epoch, which the table does not have yet.
    """
    recipe, metric = job.config.recipe, job.metric
    due, last = is_due(state.epoch, recipe), state.epoch == recipe.total_epochs or state.is_out_of_patience(recipe)
    if not isinstance(metric, DetectionMetric) or not (due or last):
        return state.verdict
    errors = {"val": metric.errors()}
    if job.sample is not None and due:
        errors["train"] = job.sample.metric.errors()
    verdict = verdict_of(
        log.rows_with(state.epoch, row),
        total=recipe.total_epochs,
        final=last,
        told_apart=state.told_apart,
        errors=errors,
    )
    return None if verdict is None else verdict.plain()

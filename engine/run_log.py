"""What a training says of itself: how it begins, and after each epoch a table row, a line, and one advice at most."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.state import TrainState, amp_dtype
from engine.step import Stepper
from engine.verdict import verdict_text
from utils import dist
from utils.device import uses_tf32
from utils.log import MetricLog, duration
from utils.metrics.figures import figure_text
from utils.train_config import TrainConfig

logger = logging.getLogger(__name__)

SHARES = {"wait": "data_wait_share", "forward": "forward_share", "backward": "backward_share"}
SHARES |= {"optimizer": "optimizer_share", "evaluation": "evaluation_share"}
"""Part of an epoch's time -> column of results.csv."""

LAPS = {"forward": ("forward", "loss"), "optimizer": ("clip", "optimizer", "average")}
"""Part of an epoch's time -> what it is made of, by the clock of a step; others are measured as they are."""

COUNTED = {
    "skipped": "steps skipped, whose loss or gradient was not finite (non_finite: skip)",
    "overflows": "steps left out while fp16 looked for its scale, which is usual at first",
    "bad_images": "times another image took the place of one that cannot be read (bad_images: skip)",
}
"""What happened in an epoch that a user wants to know of."""


@dataclass(eq=False)
class EpochLog:
    """The log of one run.

    Args:
        table: results.csv and TensorBoard.
        epochs: planned.
        columns: figures of an evaluation that are shown.
        workers: loader processes, for the advice.
        sampled: training images are evaluated too, now and then.
        told: parts of an epoch that an advice was given on.
    """

    table: MetricLog
    epochs: int
    columns: tuple[str, ...]
    workers: int
    sampled: bool = False
    told: set[str] = field(default_factory=set)

    def row(self, state: TrainState, figures: Mapping[str, Any] | None) -> dict[str, float | None]:
        """The row of results.csv for the epoch that `state` has just finished, without its number.

        Args:
            figures: of its evaluation; None where it was not evaluated.
        """
        sums = state.sums
        losses = {key: value / sums["steps"] for key, value in sums.items() if key.startswith("loss/")}
        columns = (*self.columns, "AP_train") if self.sampled else self.columns
        scores = {key: figures.get(key) if figures else None for key in columns}
        seconds = sums["seconds"] + sums.get("time/evaluation", 0.0)
        parts = {part: sum(sums.get(f"time/{lap}", 0.0) for lap in LAPS.get(part, (part,))) for part in SHARES}
        shares = {column: parts[part] / seconds for part, column in SHARES.items()}
        speed = {"seconds": seconds, "images_per_second": sums["images"] / sums["seconds"]}
        return {**losses, **scores, "lr": state.optimizer.param_groups[0]["lr"], **speed, **shares}

    def write(
        self,
        state: TrainState,
        row: dict[str, float | None],
        sums: Mapping[str, float],
        *,
        evaluated: bool,
        improved: bool,
    ) -> None:
        """Note an epoch that has ended.

        Args:
            row: of `row`; sums: of the epoch.
            evaluated, improved: whether it was evaluated, and is the best so far.
        """
        self.table.log(state.epoch, row)
        numbers = {key: value for key, value in row.items() if value is not None}
        shares = {column: numbers[column] for column in SHARES.values()}
        seconds, pace = numbers["seconds"], numbers["images_per_second"]
        shown = "  ".join(
            f"{key.removeprefix('loss/')} {value:.3f}" for key, value in numbers.items() if key.startswith("loss/")
        )
        shown_scores = "  ".join(f"{key} {figure_text(row[key])}" for key in self.columns)
        results = shown_scores if evaluated else "not evaluated"
        known = row.get("AP_train")
        results += "" if known is None else f"  AP on training images {figure_text(known)}"
        star = " *" if improved else ""
        left = duration((self.epochs - state.epoch) * seconds)
        logger.info(
            "Epoch %d/%d  %s  %s%s  %.1f images/s  %s left", state.epoch, self.epochs, shown, results, star, pace, left
        )
        listed = ", ".join(
            f"{'data wait' if part == 'wait' else part} {shares[column]:.0%}" for part, column in SHARES.items()
        )
        clock = f"{seconds:.1f}s" if seconds < 10 else duration(seconds)
        logger.info("  time %s: %s", clock, listed)
        for key, explanation in COUNTED.items():
            if sums.get(key):
                logger.info("  %d %s", sums[key], explanation)
        if state.epoch > 1:
            self._advise({part: shares[column] for part, column in SHARES.items()})

    def rows_with(self, epoch: int, row: Mapping[str, float | None]) -> list[dict[str, str]]:
        """The rows of the table, and the one that is about to be written."""
        texts = {key: "" if value is None else repr(float(value)) for key, value in row.items()}
        return [*self.table.rows, {"epoch": str(epoch), **texts}]

    def tell(self, verdict: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> None:
        """Log a verdict that has become true, or that no longer is."""
        kind, old = (each and each["kind"] for each in (verdict, before))
        if verdict is not None and kind != old:
            logger.warning("%s", verdict_text(verdict))
        elif verdict is None and old is not None:
            logger.info("The verdict '%s' no longer holds", old)

    def _advise(self, shares: Mapping[str, float]) -> None:
        """Each advice once a run, and the weightiest first."""
        for part, share in sorted(shares.items(), key=lambda item: -item[1]):
            advice = advice_for(part, share, workers=self.workers)
            if advice and part not in self.told:
                self.told.add(part)
                logger.info("  Advice: %s", advice)
                return

    def close(self) -> None:
        """Finish the TensorBoard file."""
        self.table.close()


def advice_for(part: str, share: float, *, workers: int) -> str | None:
    """What to change when a part takes out of proportion; None when it does not."""
    if part == "wait" and share > 0.2:
        more = f"more loader processes (--workers, now {workers}), cache: true, or images stored smaller"
        return f"{share:.0%} of the time is spent waiting for images: try {more}"
    if part == "evaluation" and share > 0.4:
        return f"evaluation takes {share:.0%} of the time: evaluate less often, --set evaluation.interval=5"
    if part == "optimizer" and share > 0.25:
        return f"the optimizer takes {share:.0%} of the time: a larger --batch-size needs fewer steps"
    return None


def describe_training(config: TrainConfig, folder: Path, stepper: Stepper, state: TrainState, data: list[str]) -> None:
    """Folder, model, data, length and precision of a training.

    Args:
        folder: of the run.
        data: lines about the data set.
    """
    recipe, device = config.recipe, stepper.device
    count = sum(parameter.numel() for parameter in state.model.parameters() if parameter.requires_grad)
    height, width = config.image_size
    batch = f"{recipe.batch_size} x {recipe.accumulate}" if recipe.accumulate > 1 else str(recipe.batch_size)
    amp = amp_dtype(recipe, device)
    full = "full precision, convolutions in TF32" if uses_tf32(device) else "full precision"
    precision = full if amp is None else str(amp).removeprefix("torch.")
    where = f"{device} x {dist.world_size()}" if dist.world_size() > 1 else str(device)
    logger.info("Run folder: %s", folder)
    logger.info("Model: %s, %.2f M trainable parameters", config.model["name"], count / 1e6)
    logger.info("Data: %s", "\n  ".join(data))
    logger.info("Training: %d epochs of %.0f steps, batch %s", recipe.total_epochs, stepper.steps_per_epoch, batch)
    logger.info("  %d x %d px, %s, on %s", height, width, precision, where)
    planned = recipe.optimizer.lr_batch
    if planned is not None:
        images = recipe.batch_size * recipe.accumulate
        how = "in proportion" if recipe.optimizer.type == "sgd" else "by the square root"
        rates = f"{recipe.lr:.3g} for steps of {images} images (the recipe's {recipe.optimizer.lr:g} is for {planned}"
        logger.info("  learning rate %s; %s)", rates, how)

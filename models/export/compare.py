"""How far an exported model is from the original."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.info import Predictor

TOLERANCE = 1e-4
"""The most that fp32 may differ, in shares as `Difference` has them; rounding alone makes about 1e-6."""
TOLERANCE_HALF = 2e-2
"""The same for weights in fp16, which are off by up to 2^-11 each."""


class ExportError(Exception):
    """The exported model does not give what the original gives."""


@dataclass(frozen=True)
class Difference:
    """The largest differences between two predictors; infinite where they disagree about what is a number.

    Args:
        pixels: of a box's side.
        boxes: the same as a share of the image's longer side, or of the box's coordinate where that is more: boxes of
            noise can be far larger than the image.
        scores: of a score, in [0, 1].
    """

    pixels: float
    boxes: float
    scores: float

    def within(self, tolerance: float) -> bool:
        """Whether boxes and scores are no further apart than that."""
        return max(self.boxes, self.scores) <= tolerance

    def __str__(self) -> str:
        return f"{self.pixels:.2g} px in boxes ({self.boxes:.1e} of the image), {self.scores:.1e} in scores"


def compare(original: Predictor, exported: Predictor, shapes: Sequence[tuple[int, int, int]]) -> Difference:
    """Run both beside each other on the CPU, on made-up images of every (batch, height, width).

    Raises:
        ExportError: the exported model does not run.
    """
    pixels, boxes, scores = [], [], []
    for index, shape in enumerate(shapes):
        images = made_up_images(shape, seed=index)
        wanted_boxes, wanted_scores = original.predict(images)
        try:
            found_boxes, found_scores = exported.predict(images)
        except Exception as error:  # every runtime has exceptions of its own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ExportError(f"it does not run on {shape[0]} x {shape[1]} x {shape[2]} images: {reason}") from error
        if found_boxes.shape != wanted_boxes.shape or found_scores.shape != wanted_scores.shape:
            return Difference(math.inf, math.inf, math.inf)
        apart = (found_boxes - wanted_boxes).abs()
        pixels.append(_largest(apart))
        boxes.append(_largest(apart / wanted_boxes.abs().clamp(min=max(shape[1:]))))
        scores.append(_largest(found_scores - wanted_scores))
    return Difference(max(pixels), max(boxes), max(scores))


def made_up_images(shape: tuple[int, int, int], *, seed: int) -> Tensor:
    """(B, 3, H, W) in [0, 1]: clouds of colour and a little noise, nearer to photos than plain noise."""
    batch, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    images = 0.1 * torch.rand(batch, 3, height, width, generator=generator)
    for cell in (64, 16, 4):
        coarse = torch.rand(batch, 3, max(height // cell, 1), max(width // cell, 1), generator=generator)
        images += 0.5 * F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return images.clamp_(0, 1)


def _largest(values: Tensor) -> float:
    """The largest magnitude; infinite where one of them is no number."""
    if not values.numel():
        return 0.0
    return float(values.abs().max()) if bool(values.isfinite().all()) else math.inf

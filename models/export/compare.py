"""How much an exported model differs from the original."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.detector import Detector
from models.info import Predictor, Values

TOLERANCE = 1e-4
"""Largest difference allowed in fp32, as a share (see `Difference`); rounding alone is mostly about 1e-6."""
ROUNDINGS = 10
"""A model with larger rounding errors may differ by this many times its `own_rounding`."""
TOLERANCE_HALF = 2e-2
"""The same for weights in fp16, each of which is off by up to 2^-11."""


class ExportError(Exception):
    """The exported model does not predict what the original predicts."""


@dataclass(frozen=True)
class Difference:
    """The largest differences between two predictors; infinite where only one of them is finite.

    Args:
        pixels: of a box's side; 0 for classifiers.
        boxes: the same as a share of the image's longer side, or of the box's coordinate where that is more: boxes of
            noise can be far larger than the image.
        scores: of a score, or of a classifier's probability, in [0, 1].
        task: what the predictors do.
    """

    pixels: float
    boxes: float
    scores: float
    task: Literal["detect", "classify"] = "detect"

    def within(self, tolerance: float) -> bool:
        """Whether boxes and scores differ by at most `tolerance`."""
        return self.share <= tolerance

    @property
    def share(self) -> float:
        """The larger of both shares."""
        return max(self.boxes, self.scores)

    def larger(self, other: Difference) -> Difference:
        """The larger of each of both."""
        return Difference(
            max(self.pixels, other.pixels), max(self.boxes, other.boxes), max(self.scores, other.scores), other.task
        )

    def __str__(self) -> str:
        if self.task == "classify":
            return f"{self.scores:.1e} in probabilities"
        return f"{self.pixels:.2g} px in boxes ({self.boxes:.1e} of the image or box), {self.scores:.1e} in scores"


def compare(original: Predictor, exported: Predictor, shapes: Sequence[tuple[int, int, int]]) -> Difference:
    """Run both on the CPU, on made-up images of every (batch, height, width), and compare what they predict.

    Raises:
        ExportError: the exported model does not run.
    """
    differences = [_compare_on(original, exported, shape, seed=index) for index, shape in enumerate(shapes)]
    return functools.reduce(Difference.larger, differences)


class BestClass(Predictor):
    """A detector of which each box has its best class alone, as in the layout 'deepstream'."""

    def __init__(self, original: Predictor) -> None:
        super().__init__(original.info, device=original.device, precision=original.precision, runtime="")
        self.original = original

    def predict(self, images: Values) -> tuple[Values, Values] | Values:
        """See Predictor."""
        boxes, scores = (torch.as_tensor(each) for each in self.original.predict(images))
        best = scores.argmax(dim=2, keepdim=True)
        return boxes, torch.zeros_like(scores).scatter_(2, best, scores.gather(2, best))


@torch.inference_mode()
def own_rounding(model: Detector, shapes: Sequence[tuple[int, int, int]]) -> float:
    """How much a model in fp32 differs from itself in fp64, on the images of `compare`: the largest `Difference.share`.

    After a few training steps the statistics of the norms are still those of the start, and values can be in the
    hundreds: their rounding differs more between runtimes than that of a trained model.
    """
    exact = copy.deepcopy(model).double()
    shares = [0.0]
    for index, shape in enumerate(shapes):
        images = made_up_images(shape, seed=index)
        shares.append(_difference(model.predict(images), exact.predict(images.double()), shape).share)
    return max(shares)


def _compare_on(original: Predictor, exported: Predictor, shape: tuple[int, int, int], *, seed: int) -> Difference:
    images = made_up_images(shape, seed=seed)
    expected = original.predict(images)
    try:
        actual = exported.predict(images)
    except Exception as error:  # every runtime has exceptions of its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"it does not run on {shape[0]} x {shape[1]} x {shape[2]} images: {reason}") from error
    return _difference(_as_tensors(expected), _as_tensors(actual), shape)


def _as_tensors(predicted: tuple[Values, Values] | Values) -> tuple[Tensor, Tensor] | Tensor:
    if isinstance(predicted, tuple):
        return torch.as_tensor(predicted[0]), torch.as_tensor(predicted[1])
    return torch.as_tensor(predicted)


def _difference(
    expected: tuple[Tensor, Tensor] | Tensor, actual: tuple[Tensor, Tensor] | Tensor, shape: tuple[int, int, int]
) -> Difference:
    """How far predictions are apart; `shape` is (batch, height, width) of the images."""
    if isinstance(expected, Tensor):
        if not isinstance(actual, Tensor) or actual.shape != expected.shape:
            return Difference(0.0, 0.0, math.inf, task="classify")
        return Difference(0.0, 0.0, _largest(actual - expected), task="classify")
    boxes, scores = expected
    if actual[0].shape != boxes.shape or actual[1].shape != scores.shape:
        return Difference(math.inf, math.inf, math.inf)
    apart = (actual[0] - boxes).abs()
    share = _largest(apart / boxes.abs().clamp(min=max(shape[1:])))
    return Difference(_largest(apart), share, _largest(actual[1] - scores))


def made_up_images(shape: tuple[int, int, int], *, seed: int) -> Tensor:
    """(B, 3, H, W) in [0, 1], multiples of 1/255: clouds of colour and a little noise, nearer to photos than noise."""
    batch, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    images = 0.1 * torch.rand(batch, 3, height, width, generator=generator)
    for cell in (64, 16, 4):
        coarse = torch.rand(batch, 3, max(height // cell, 1), max(width // cell, 1), generator=generator)
        images += 0.5 * F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return images.clamp_(0, 1).mul_(255).round_().div_(255)


def _largest(values: Tensor) -> float:
    """The largest magnitude of values of any shape; infinite where one of them is not finite."""
    if not values.numel():
        return 0.0
    return float(values.abs().max()) if bool(values.isfinite().all()) else math.inf

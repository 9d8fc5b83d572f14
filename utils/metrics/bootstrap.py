"""Is one set of predictions better than another? A paired bootstrap over images, with pycocotools' AP."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.metrics.coco import COCO_LIMIT, box_ground_truth, coco_eval


class ResampledAP:
    """AP over any sample of the images, matched once.

    pycocotools matches detections image by image and adds up afterwards, so the AP of a sample in which images are
    missing or repeated needs only its second half again.

    Args:
        ground_truth: the split as a COCO dict.
        rows: a COCO results list.
        max_det: best detections of an image and class that count.
    """

    def __init__(
        self, ground_truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, max_det: int = COCO_LIMIT
    ) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            evaluation = coco_eval(box_ground_truth(ground_truth), [dict(row) for row in rows])
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [max_det]
            evaluation.evaluate()
        self._evaluation = evaluation
        self.image_ids: list[Hashable] = list(evaluation.params.imgIds)
        count, categories = len(self.image_ids), len(evaluation.params.catIds)
        self._matches = [evaluation.evalImgs[k * count : (k + 1) * count] for k in range(categories)]

    def __call__(self, sample: np.ndarray | None = None) -> float:
        """AP in [0, 1] over a sample of the images; -1 where it has no objects.

        Args:
            sample: (N,) int positions in `image_ids`; an image counts as often as it occurs. None: each image once.
        """
        positions = np.arange(len(self.image_ids)) if sample is None else sample
        evaluation = copy.copy(self._evaluation)
        evaluation.evalImgs = [matches[position] for matches in self._matches for position in positions]
        evaluation.params = copy.copy(self._evaluation.params)
        evaluation.params.imgIds = list(range(len(positions)))  # a repeated image is one more image
        evaluation._paramsEval = copy.copy(evaluation.params)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        precision = np.asarray(evaluation.eval["precision"])
        valid = precision[precision > -1]
        return float(valid.mean()) if len(valid) else -1.0


def ap_interval(
    ground_truth: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    max_det: int = COCO_LIMIT,
    samples: int = 100,
    images: int = 500,
    seed: int = 0,
) -> tuple[float, float]:
    """The middle 95 % of AP over resamples of the images; 0 to 1 where no resample has an object.

    Args:
        ground_truth: the split as a COCO dict.
        rows: a COCO results list.
        samples: resamples; those without an object do not count.
        images: of a larger split so many are looked at, which takes less time and widens the interval.
    """
    rng = np.random.default_rng(seed)
    ids = [image["id"] for image in ground_truth["images"]]
    if len(ids) > images:
        kept = {ids[position] for position in rng.permutation(len(ids))[:images]}
        parts = {key: [each for each in ground_truth[key] if each[name] in kept] for key, name in _KEYS.items()}
        ground_truth, rows = {**ground_truth, **parts}, [row for row in rows if row["image_id"] in kept]
    resampled = ResampledAP(ground_truth, rows, max_det=max_det)
    count = len(resampled.image_ids)
    draws = np.array([resampled(rng.integers(count, size=count)) for _ in range(samples)] if count else [])
    draws = draws[draws >= 0]
    low, high = np.quantile(draws, (0.025, 0.975)).tolist() if draws.size else (0.0, 1.0)
    return low, high


_KEYS = {"images": "id", "annotations": "image_id"}
"""List of a COCO dict -> where its entries have the id of their image."""


@dataclass(frozen=True)
class Comparison:
    """AP of B less AP of A on the same images.

    Args:
        first, second: AP of A and of B, mean over the runs of each.
        low, high: the middle 95 % of the difference over the samples.
        share: part of the samples in which B has the higher AP.
        samples: how many were drawn.
        images: in the split.
    """

    first: float
    second: float
    low: float
    high: float
    share: float
    samples: int
    images: int

    @property
    def verdict(self) -> str:
        """In words, and no more than the images can tell."""
        if self.low > 0:
            return "B beats A"
        if self.high < 0:
            return "A beats B"
        return "these images cannot tell which is better"

    def __str__(self) -> str:
        return (
            f"{self.verdict}: AP {self.first:.4f} -> {self.second:.4f}, difference {self.second - self.first:+.4f} "
            f"(95 % of {self.samples} resamples of {self.images} images: {self.low:+.4f} to {self.high:+.4f}; "
            f"B ahead in {self.share:.0%})"
        )


def compare(
    ground_truth: Mapping[str, Any],
    first: Sequence[Sequence[Mapping[str, Any]]],
    second: Sequence[Sequence[Mapping[str, Any]]],
    *,
    samples: int = 500,
    seed: int = 0,
    max_det: int = COCO_LIMIT,
) -> Comparison:
    """Whether B's predictions are better than A's (Efron and Tibshirani's paired bootstrap).

    Every resample draws as many images as there are, with repetition, and both sides are counted on the same draw. The
    spread is that of the images; runs of several seeds are averaged, and their spread is not in it.

    Args:
        ground_truth: the split as a COCO dict.
        first, second: COCO results lists of the runs of A and of B.
        max_det: as in ResampledAP.
    Raises:
        ValueError: no image, no object, or a side without a run.
    """
    if not first or not second:
        raise ValueError("expected at least one run on each side of a comparison")
    sides = [[ResampledAP(ground_truth, rows, max_det=max_det) for rows in runs] for runs in (first, second)]
    count = len(sides[0][0].image_ids)
    if not count:
        raise ValueError("the ground truth has no image to compare on")
    rng = np.random.default_rng(seed)

    def difference(sample: np.ndarray | None) -> tuple[float, float]:
        one, two = (float(np.mean([run(sample) for run in runs])) for runs in sides)
        return one, two

    whole = difference(None)
    if whole[0] < 0:
        raise ValueError("the ground truth has no object to compare on")
    draws = np.array([difference(rng.integers(count, size=count)) for _ in range(samples)])
    gaps = draws[:, 1] - draws[:, 0]
    low, high = np.quantile(gaps, (0.025, 0.975))
    return Comparison(*whole, float(low), float(high), float((gaps > 0).mean()), samples, count)

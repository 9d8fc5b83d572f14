"""ClassificationMetric: top-1 and top-5 of a split, as a whole and by class."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from utils.metrics.figures import figure_text
from utils.text import shorten, shown

ROW = ("image_id", "label", "rank", "labels", "scores")
MANY = 40
"""Classes that `table` lists; of more, only those with the lowest top-1."""


class ClassificationMetric:
    """The share of images whose true class is the first, or among the first five, of a classifier's.

    Of classes with equal probability the one with the lower label comes first, so that a model that says the same of
    everything is not right by chance. With five classes or fewer, top-5 is 1. A figure is None where there is no image.

    Args:
        truth: image id -> label.
        names: class names by label; an attribute too, where one that stands twice has its label behind it.
    Raises:
        ValueError: a label without a name.
    """

    columns = ("top1", "top5")
    """The figures that a training shows after each epoch; the first decides which checkpoint is the best."""

    def __init__(self, truth: Mapping[Hashable, int], names: Sequence[str]) -> None:
        wrong = [image_id for image_id, label in truth.items() if not 0 <= label < len(names)]
        if wrong:
            raise ValueError(
                f"image {shown(wrong[0])}: label {truth[wrong[0]]} has no name; there are {len(names)} names"
            )
        self._truth = dict(truth)
        self.names = tuple(f"{n} ({i})" if tuple(names).count(n) > 1 else n for i, n in enumerate(names))
        self.reset()

    def reset(self) -> None:
        """Remove all predictions."""
        self._rows: dict[Hashable, dict[str, Any]] = {}

    def update(self, image_ids: Sequence[Hashable], probabilities: np.ndarray) -> None:
        """Add the predictions for images, each image once.

        Args:
            image_ids: B ids of `truth`.
            probabilities: (B, C) in [0, 1], a column for each of `names`.
        Raises:
            ValueError: an unknown image, one that was counted before, or a probability that is not finite.
        """
        values = np.asarray(probabilities, np.float32)
        if values.shape != (len(image_ids), len(self.names)):
            expected = f"{len(image_ids)} x {len(self.names)}"
            raise ValueError(f"probabilities: expected {expected}, images and classes, found {tuple(values.shape)}")
        for image_id, finite in zip(image_ids, np.all(np.isfinite(values), axis=1), strict=True):
            if image_id not in self._truth:
                raise ValueError(f"image {shown(image_id)} is not among the {len(self._truth)} images evaluated")
            if image_id in self._rows:
                raise ValueError(
                    f"image {shown(image_id)} was counted before; the loader may give each image once only"
                )
            if not finite:
                raise ValueError(f"image {shown(image_id)}: a probability is not finite; has the model diverged?")
        labels = np.array([self._truth[image_id] for image_id in image_ids], np.int64)[:, None]
        own = np.take_along_axis(values, labels, axis=1)
        before = (values > own) | ((values == own) & (np.arange(values.shape[1]) < labels))
        best = np.argsort(-values, axis=1, kind="stable")[:, :5]
        columns = (labels[:, 0], before.sum(axis=1), best, np.take_along_axis(values, best, axis=1))
        for image_id, *row in zip(image_ids, *(column.tolist() for column in columns), strict=True):
            self._rows[image_id] = dict(zip(ROW, (image_id, *row), strict=True))

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add what `predictions` gave on another rank; images that are already here are left out."""
        for row in rows:
            self._rows.setdefault(row["image_id"], dict(row))

    def predictions(self) -> list[dict[str, Any]]:
        """A row an image, in the order of `truth`.

        Its keys: image_id, label (the true one), rank (classes before the true one), and labels and scores of the five
        best classes, best first. Numbers are Python's own.
        """
        return [dict(self._rows[image_id]) for image_id in self._truth if image_id in self._rows]

    def compute(self) -> dict[str, Any]:
        """'top1', 'top5', 'per_class' (name to both, and its images) and 'images' (how many were evaluated)."""
        rows = self._rows.values()
        labels, ranks = (np.array([row[key] for row in rows], np.int64) for key in ("label", "rank"))
        per_class = {}
        for label, name in enumerate(self.names):
            mine = ranks[labels == label]
            per_class[name] = {"top1": _share(mine < 1), "top5": _share(mine < 5), "images": len(mine)}
        return {"top1": _share(ranks < 1), "top5": _share(ranks < 5), "per_class": per_class, "images": len(ranks)}

    def confusion(self) -> np.ndarray:
        """(C, C) int64 images by true class (row) and by the class found first (column)."""
        matrix = np.zeros((len(self.names), len(self.names)), np.int64)
        for row in self._rows.values():
            matrix[row["label"], row["labels"][0]] += 1
        return matrix

    def table(self) -> str:
        """Both figures, and a line for each class (of many, for those with the lowest top-1)."""
        figures = self.compute()
        lines = [f" Top-{n} = {figure_text(figures[f'top{n}'], digits=4)}" for n in (1, 5)] + [""]
        shown = list(figures["per_class"].items())
        if len(shown) > MANY:
            shown = sorted((item for item in shown if item[1]["images"]), key=lambda item: item[1]["top1"])[:MANY]
            lines += [f" the {len(shown)} of {len(self.names)} classes with the lowest top-1 (metrics.json has all):"]
        width = max(len(shorten(name)) for name in ("class", *dict(shown)))
        lines += [f" {'class':<{width}}   top-1  top-5  images"]
        for name, row in shown:
            top1, top5 = (figure_text(row[key]) for key in self.columns)
            lines.append(f" {shorten(name):<{width}}  {top1:>6} {top5:>6} {row['images']:7d}")
        return "\n".join(lines)


def _share(hits: np.ndarray) -> float | None:
    return float(hits.mean()) if len(hits) else None

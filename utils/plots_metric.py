"""Diagrams of an evaluation: a detector's curves and confusion matrix, and a classifier's confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.draw import class_colour
from utils.figures import Figure
from utils.metrics.build import Metric
from utils.metrics.classification import ClassificationMetric
from utils.metrics.f1 import SAMPLES
from utils.metrics.matches import MATCH_IOU
from utils.metrics.operating import GRID, confusion_at_best, curves
from utils.plots import INK, LINES, QUIET, plot_confusion, plot_pr_curves, save_figure, style

BACKGROUND = "background"


def plot_metric(metric: Metric, figures: Mapping[str, Any], folder: Path) -> None:
    """Of a detector pr_curve.jpg, f1_curve.jpg and confusion.jpg; of a classifier confusion.jpg.

    Args:
        figures: of the metric, of a detector from `with_operating_point`.
    """
    if isinstance(metric, ClassificationMetric):
        plot_confusion(metric.confusion(), metric.names, folder / "confusion.jpg")
        return
    matches, names = metric.matches(), tuple(figures["per_class"])
    plot_pr_curves(*metric.pr_curves(), folder / "pr_curve.jpg")
    plot_f1_curves(*curves(matches, names), figures["f1"], folder / "f1_curve.jpg")
    conf = figures["f1"]["conf"]
    at = "no threshold" if conf is None else f"scores above {conf:.3f} (best F1), IoU {MATCH_IOU:g}"
    title = f"True class (row) and class found (column); {at}"
    plot_confusion(
        confusion_at_best(figures, matches), names, folder / "confusion.jpg", title=title, background=BACKGROUND
    )


def plot_f1_curves(
    of_all: Mapping[str, np.ndarray],
    by_class: Mapping[str, np.ndarray],
    f1: Mapping[str, Any],
    path: Path,
    *,
    limit: int = 20,
) -> None:
    """Precision, recall and F1 over the score threshold, and F1 of each class; the best F1 is marked.

    Args:
        of_all, by_class: over GRID, from `curves`.
        f1: 'best', 'conf' and their intervals.
        limit: classes named in the legend, those with the highest F1 and those with the lowest.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    ax = figure.add_subplot()
    title = f"F1, precision and recall over the score threshold, IoU {MATCH_IOU:g}"
    if f1["conf"] is not None:
        title += f"\nbest F1 {f1['best']:.3f} at {f1['conf']:.3f}; shaded: 95 % of {SAMPLES} samples of the images"
    style(ax, title)
    ranked = sorted(by_class, key=lambda name: -float(by_class[name].max()))
    named = set(ranked if len(ranked) <= limit else ranked[: limit // 2] + ranked[-(limit // 2) :])
    for index, name in enumerate(by_class):
        label = f"{name}  {by_class[name].max():.3f}" if name in named else None
        colour = np.array(class_colour(index)) / 255
        ax.plot(GRID, by_class[name], color=colour, lw=1.1 if name in named else 0.6, alpha=0.8, label=label)
    looks = {"precision": (LINES[2], "--"), "recall": (LINES[1], "--"), "F1": (INK, "-")}
    for name, (line, dashes) in looks.items():
        if np.isfinite(of_all[name]).any():
            wide = 3 if name == "F1" else 1.8
            ax.plot(GRID, of_all[name], color=line, lw=wide, ls=dashes, label=f"all classes: {name}")
    if f1["conf"] is not None:
        ax.axvspan(*f1["conf_interval"], color=LINES[0], alpha=0.12, lw=0)
        ax.axvline(f1["conf"], color=LINES[0], lw=1.2)
        ax.plot(f1["conf"], f1["best"], marker="*", ms=15, color=LINES[0], mec="white", zorder=5)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(title="F1 of each class at its best", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
                  fontsize=9)  # fmt: skip
    ax.set(xlim=(0, 1.005), ylim=(0, 1.02))
    ax.set_xlabel("score threshold", color=QUIET)
    save_figure(figure, path)

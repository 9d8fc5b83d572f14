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
from utils.plots import INK, LINES, QUIET, plot_confusion, plot_pr_curves, save_figure, shorten, style

BACKGROUND = "background"
MAX_NAMED = 16
"""Classes with a colour of their own in the F1 curves."""


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
    plot_f1_curves(*curves(matches, names), figures, folder / "f1_curve.jpg")
    conf = figures["f1"]["conf"]
    at = "no threshold" if conf is None else f"Scores above {conf:.3f} (best F1), IoU {MATCH_IOU:g}"
    title = f"True class (row) and class found (column)\n{at}"
    plot_confusion(
        confusion_at_best(figures, matches), names, folder / "confusion.jpg", title=title, background=BACKGROUND
    )


def plot_f1_curves(
    of_all: Mapping[str, np.ndarray], by_class: Mapping[str, np.ndarray], figures: Mapping[str, Any], path: Path
) -> None:
    """Precision, recall and F1 over the score threshold, and F1 of each class; the best F1 is marked.

    The classes with the most objects have a colour and a name; those with few jump with each object.

    Args:
        of_all, by_class: over GRID, from `curves`.
        figures: from `with_operating_point`.
    """
    f1, rows = figures["f1"], figures["per_class"]
    figure = Figure(figsize=(10, 7), layout="constrained")
    ax = figure.add_subplot()
    title = f"F1, precision and recall over the score threshold, IoU {MATCH_IOU:g}"
    if f1["conf"] is not None:
        title += f"\nbest F1 {f1['best']:.3f} at {f1['conf']:.3f}; shaded: in 95 % of {SAMPLES} samples of the images"
    style(ax, title)
    named = sorted(by_class, key=lambda name: -rows[name]["objects"])[:MAX_NAMED]
    for name in by_class.keys() - set(named):
        ax.plot(GRID, by_class[name], color=QUIET, lw=0.5, alpha=0.25)
    places = {name: index for index, name in enumerate(by_class)}
    for name in sorted(named, key=lambda name: -rows[name]["f1"]):
        label = f"{shorten(name)} ({rows[name]['objects']:,})  {rows[name]['f1']:.3f}"
        ax.plot(GRID, by_class[name], color=np.array(class_colour(places[name])) / 255, lw=1.2, label=label)
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
        more = f", {len(named)} of {len(by_class)}" if len(named) < len(by_class) else ""
        title = f"F1 of a class at its best{more}"
        ax.legend(title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    ax.set(xlim=(0, 1.005), ylim=(0, 1.02))
    ax.set_xlabel("score threshold", color=QUIET)
    save_figure(figure, path)

"""Diagrams of a run, each a JPEG: its labels, its training curves, and its results by class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.draw import class_colour
from utils.figures import Axes, Figure, FigureCanvasAgg, FontProperties, MaxNLocator, Text
from utils.fonts import font_for
from utils.results import columns_of, read_results
from utils.structures import LabelledImages
from utils.text import printable

INK, QUIET = "#262a33", "#6b7280"
LINES = ("#2563eb", "#ea580c", "#16a34a", "#c026d3", "#0891b2", "#854d0e")
_MAX_BARS = 40
MAX_CONFUSED = 30
"""Classes in a confusion matrix; of more, those that are confused most."""
SCORES = ("AP", "AP50", "AP75", "AP_train", "top1", "top5")
"""Columns of results.csv that are drawn as curves of a metric; the first that is there decides the best epoch."""


def plot_labels(images: LabelledImages, path: Path) -> None:
    """The labels of a split: its objects, or a classifier's images by class."""
    if images.task == "detect":
        _plot_objects(images, path)
    else:
        _plot_images(images, path)


def plot_results(table: Path, path: Path) -> None:
    """Curves of results.csv: losses, AP or top-1, learning rate and speed over the epochs; a blank field is a gap."""
    rows = read_results(table)
    columns = {key: np.array(values) for key, values in columns_of(rows).items()}
    epochs = columns.pop("epoch", np.arange(1, len(rows) + 1))
    missing = np.empty(0)
    losses = {key.removeprefix("loss/"): values for key, values in columns.items() if key.startswith("loss/")}
    if len(losses) > 1:
        losses = {"sum": np.sum(list(losses.values()), axis=0)} | losses
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    _draw_curves(axes[0], epochs, losses, "Loss")
    scores = {key: columns[key] for key in SCORES if key in columns}
    main = next(iter(scores), "AP")
    _draw_curves(axes[1], epochs, scores, "Average precision on val" if main == "AP" else "Accuracy on val")
    _mark_best(axes[1], epochs, scores.get(main, missing), main)
    _draw_curves(axes[2], epochs, {"lr": columns.get("lr", missing)}, "Learning rate at the end of the epoch")
    _draw_curves(axes[3], epochs, {"images/s": columns.get("images_per_second", missing)}, "Speed in training")
    if "data_wait_share" in columns:
        _draw_wait(axes[3], epochs, columns["data_wait_share"])
    for ax in axes:
        ax.set_xlabel("epoch", color=QUIET)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlim(epochs.min(initial=1) - 0.5, epochs.max(initial=1) + 0.5)
    for ax in (axes[0], *axes[2:]):
        ax.set_ylim(bottom=0)
    axes[1].set_ylim(
        0, min(1.02, max(0.1, np.nanmax([0.0, *(np.nan_to_num(v).max() for v in scores.values())]) * 1.12))
    )
    save_figure(figure, path)


def plot_pr_curves(recall: np.ndarray, precision: Mapping[str, np.ndarray], path: Path, *, limit: int = 20) -> None:
    """Precision over recall at IoU 0.5 of each class, and their mean.

    Args:
        recall: (R,) thresholds.
        precision: (R,) by class name.
        limit: classes named in the legend; of more, the best and the worst halves are.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    ax = figure.add_subplot()
    style(ax, "Precision over recall at IoU 0.5")
    ranked = sorted(precision, key=lambda name: -float(np.mean(precision[name])))
    named = set(ranked if len(ranked) <= limit else ranked[: limit // 2] + ranked[-(limit // 2) :])
    colours = {name: np.array(class_colour(index)) / 255 for index, name in enumerate(precision)}
    for name in ranked:
        label = f"{name}  {np.mean(precision[name]):.3f}" if name in named else None
        ax.plot(recall, precision[name], color=colours[name], lw=1.4 if name in named else 0.8, alpha=0.9, label=label)
    if precision:
        mean = np.mean(list(precision.values()), axis=0)
        ax.plot(recall, mean, color=INK, lw=3, label=f"all {len(precision)} classes  {mean.mean():.3f}")
        ax.legend(title="AP50", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    ax.set(xlim=(0, 1.005), ylim=(0, 1.02))
    ax.set_xlabel("recall", color=QUIET)
    ax.set_ylabel("precision", color=QUIET)
    save_figure(figure, path)


def plot_confusion(
    matrix: np.ndarray,
    names: Sequence[str],
    path: Path,
    *,
    title: str = "True class (row) and class found",
    background: str = "",
) -> None:
    """The confusion matrix: shares of each true class (row) that were predicted as each class (column).

    Args:
        matrix: (C, C) counts by true class (row) and predicted class (column); the rows' sums stand beside the names.
        background: name of one more row and column, the last of the matrix, that are always shown.
    """
    count = len(names)
    wrong = (matrix.sum(axis=1) + matrix.sum(axis=0) - 2 * np.diag(matrix))[:count]
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:MAX_CONFUSED])
    chosen = np.append(chosen, count) if background else chosen
    totals = matrix.sum(axis=1)[chosen]
    shares = matrix[np.ix_(chosen, chosen)] / totals[:, None].clip(min=1)
    side = max(5.0, 2.5 + 0.34 * len(chosen))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    ax = figure.add_subplot()
    many = f"\nThe {MAX_CONFUSED} classes most confused of {count}" if count > MAX_CONFUSED else ""
    style(ax, f"{title}\nPercent of the row{many}")
    ax.grid(False)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    titles = [shorten([*names, background][int(label)]) for label in chosen]
    ax.set_xticks(range(len(chosen)), titles, rotation=90, color=INK)
    rows = [f"{name} ({total:,})" for name, total in zip(titles, totals, strict=True)]
    ax.set_yticks(range(len(chosen)), rows, color=INK)
    for y, x in zip(*np.nonzero(shares >= 0.005), strict=True):
        colour = "white" if shares[y, x] > 0.6 else INK
        ax.text(x, y, f"{100 * shares[y, x]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    save_figure(figure, path)


def _plot_objects(images: LabelledImages, path: Path) -> None:
    """How many objects each class has, where they are, and how large; crowd regions are left out."""
    samples = images.samples
    keep = ~samples.crowd
    labels, boxes = samples.labels[keep], samples.boxes[keep]
    sides = samples.sizes[samples.image_index()[keep], ::-1]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / sides
    sizes = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    counts = np.bincount(labels, minlength=len(images.names))
    shown = min(len(counts), _MAX_BARS)
    figure = Figure(figsize=(13, max(8.0, 1.5 + 0.24 * shown)), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1.3, 1, 1))
    bars, areas = (grid[0, 0], grid[1, :]) if shown <= 12 else (grid[:, 0], grid[1, 1:])
    figure.suptitle(
        f"{len(labels):,} objects of {len(counts)} classes in {len(samples):,} images", color=INK, fontsize=14
    )
    _draw_counts(figure.add_subplot(bars), counts, images.names, counted="Objects")
    _draw_density(figure.add_subplot(grid[0, 1]), centres, "Centres", ("x / image width", "y / image height"))
    relative = sizes / sides
    _draw_density(figure.add_subplot(grid[0, 2]), relative, "Sizes", ("width / image width", "height / image height"))
    _draw_areas(figure.add_subplot(areas), np.sqrt(sizes.prod(axis=1)))
    save_figure(figure, path)


def _plot_images(images: LabelledImages, path: Path) -> None:
    """How many images each class has, and how large they are."""
    labels = images.samples.labels  # one an image
    counts = np.bincount(labels, minlength=len(images.names))
    shown = min(len(counts), _MAX_BARS)
    figure = Figure(figsize=(13, max(6.0, 1.5 + 0.24 * shown)), layout="constrained")
    figure.suptitle(f"{len(labels):,} images of {len(counts)} classes", color=INK, fontsize=14)
    bars, sizes = figure.subplots(1, 2)
    _draw_counts(bars, counts, images.names, counted="Images")
    style(sizes, "Shorter side, pixels")
    sizes.hist(images.samples.sizes.min(axis=1), bins=40, color=LINES[0])
    sizes.set_ylabel("images", color=QUIET)
    save_figure(figure, path)


def _draw_counts(ax: Axes, counts: np.ndarray, names: Sequence[str], *, counted: str) -> None:
    """A bar for each class, of many classes for the most frequent.

    Args:
        counts: (C,) by class.
        counted: what is counted, for the title.
    """
    order = np.arange(len(counts))
    title = f"{counted} by class"
    if len(counts) > _MAX_BARS:
        order = np.sort(np.argsort(-counts, kind="stable")[:_MAX_BARS])
        title = f"{counted} by class, the {_MAX_BARS} most frequent of {len(counts)}"
    style(ax, title)
    ax.grid(False)
    positions = np.arange(len(order))
    ax.barh(positions, counts[order], color=[np.array(class_colour(int(label))) / 255 for label in order], height=0.72)
    ax.set_yticks(positions, [shorten(names[int(label)]) for label in order], color=INK)
    ax.set_ylim(max(len(order), 8) - 0.4, -0.6)  # a few bars stay bars
    for position, count in zip(positions, counts[order], strict=True):
        ax.annotate(
            f"{count:,}", (count, position), (4, 0), textcoords="offset points", va="center", fontsize=8, color=QUIET
        )
    ax.set_xlim(0, max(counts.max(initial=0) * 1.16, 1))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _draw_density(ax: Axes, points: np.ndarray, title: str, axis_names: tuple[str, str]) -> None:
    """(N, 2) fractions of the image as a heat map, y downwards as in the image."""
    style(ax, title)
    ax.grid(False)
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=40, range=((0, 1), (0, 1)))
    ax.imshow(np.sqrt(counts), extent=(0, 1, 1, 0), cmap="Blues", interpolation="nearest", aspect="equal")
    ax.set_xlabel(axis_names[0], color=QUIET)
    ax.set_ylabel(axis_names[1], color=QUIET)


def _draw_areas(ax: Axes, sides: np.ndarray) -> None:
    """Side of the square of an object's area, with COCO's limits of small, medium and large."""
    style(ax, "Square root of the box area, pixels of the original image")
    top = max(float(sides.max(initial=1)), 128.0)
    low = max(float(np.quantile(sides, 0.002)) / 1.3, 1.0) if len(sides) else 1.0
    ax.hist(sides.clip(min=low), bins=np.geomspace(low, top * 1.01, 60).tolist(), color=LINES[0], alpha=0.85)
    ax.set_xscale("log")
    ax.set_xlim(low, top * 1.05)
    ticks = [tick for tick in (1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512, 1024, 2048, 4096) if low <= tick <= top]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    bounds = (0, 32, 96, math.inf)
    for name, low, high in zip(("small", "medium", "large"), bounds, bounds[1:], strict=False):
        share = np.mean((sides >= low) & (sides < high)) if len(sides) else 0.0
        left, right = max(low, ax.get_xlim()[0]), min(high, ax.get_xlim()[1])
        if left < right:
            ax.text(
                math.sqrt(left * right), 0.97, f"{name} {share:.0%}",
                transform=ax.get_xaxis_transform(), ha="center", va="top", color=INK,
            )  # fmt: skip
        if low < high < top:
            ax.axvline(high, color=QUIET, lw=1, ls=":")
    ax.margins(y=0.15)


def _draw_curves(ax: Axes, epochs: np.ndarray, curves: Mapping[str, np.ndarray], title: str) -> None:
    style(ax, title)
    curves = {name: values for name, values in curves.items() if np.isfinite(values).any()}
    for (name, values), colour in zip(curves.items(), LINES * 4, strict=False):
        known = np.isfinite(values)  # epochs without an evaluation are skipped over
        marker = "o" if known.sum() < 25 else None
        ax.plot(epochs[known], values[known], color=colour, lw=2, marker=marker, ms=4, label=name)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=9, labelcolor=INK)


def _mark_best(ax: Axes, epochs: np.ndarray, values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).any():
        return
    best = int(np.flatnonzero(values == np.nanmax(values))[-1])  # of equal ones the last, as best.pt
    ax.plot(epochs[best], values[best], marker="*", ms=15, color=LINES[0], mec="white")
    ax.set_title(f"best {name} {values[best]:.3f}, epoch {int(epochs[best])}", loc="right", color=QUIET, fontsize=10)


def _draw_wait(ax: Axes, epochs: np.ndarray, share: np.ndarray) -> None:
    right = ax.twinx()
    right.fill_between(epochs, 100 * share, color=LINES[1], alpha=0.2, lw=0)
    right.set_ylim(0, 100)
    right.set_ylabel("time spent waiting for data, %", color=LINES[1])
    right.spines[["top", "left", "right", "bottom"]].set_visible(False)
    right.tick_params(colors=QUIET, length=0, labelsize=9)
    ax.set_ylabel("images/s", color=LINES[0])


def style(ax: Axes, title: str) -> None:
    """The look that all diagrams share."""
    ax.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    ax.grid(True, color="#e5e7eb", lw=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#9ca3af")
    ax.tick_params(colors=QUIET, length=0, labelsize=9)


def shorten(name: str, limit: int = 22) -> str:
    """A class name for the edge of a diagram."""
    name = printable(name)
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a JPEG, each text in a font that has its letters."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # '$' in a class name is a dollar
        if not text.get_text().isascii():
            text.set_fontproperties(FontProperties(fname=font_for(text.get_text()), size=text.get_fontsize()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # font_for has said so
        FigureCanvasAgg(figure).print_jpg(str(path), pil_kwargs={"quality": 88, "optimize": True})

"""Figures of an evaluation that may be missing: as text, and as older files have them."""

from __future__ import annotations

from typing import Any

DASH = "–"
"""Shown in place of a figure that there is nothing to measure on."""


def figure_text(value: float | None, *, digits: int = 3) -> str:
    """A figure with some digits after the point; a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def is_figure(key: str) -> bool:
    """Whether a key of metrics.json or a column of results.csv is an AP, an AR or a share of images."""
    return key.startswith(("AP", "AR")) or key in ("top1", "top5")


def without_minus_one(figures: dict[str, Any]) -> dict[str, Any]:
    """The content of a metrics.json, with None for the -1 that older releases wrote in its place."""
    classes = {name: without_minus_one(row) for name, row in (figures.get("per_class") or {}).items()}
    cleaned = {key: None if is_figure(key) and value == -1 else value for key, value in figures.items()}
    return {**cleaned, "per_class": classes} if classes else cleaned

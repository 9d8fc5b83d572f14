"""Class names for darknet weights, which hold none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.config import ROOT, ConfigError, load_yaml

KNOWN = {80: ROOT / "cfg" / "data" / "coco.yaml", 20: ROOT / "cfg" / "data" / "voc.yaml"}
"""Data sets whose models have so many classes, as a rule."""


def names_beside(classes: int, files: Sequence[Path | str]) -> tuple[str, ...] | None:
    """The names in a file NAME.names, one a line as darknet has it, beside one of a model's files NAME.*, if any.

    Raises:
        ConfigError: it holds another number of names.
    """
    for path in (Path(file).with_suffix(".names") for file in files):
        if path.is_file():
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            names = [line.strip() for line in lines if line.strip()]
            if len(names) != classes or len(set(names)) != classes:
                raise ConfigError(f"{path}: expected {classes} different names, one a line, found {len(set(names))}")
            return tuple(names)
    return None


def known_names(classes: int) -> tuple[str, ...]:
    """The likely names of so many classes: COCO's for 80, VOC's for 20, else numbers."""
    if classes not in KNOWN:
        return tuple(f"class {label}" for label in range(classes))
    names = load_yaml(KNOWN[classes])["names"]
    return tuple(str(names[label]) for label in range(classes))

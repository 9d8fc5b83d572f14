"""What looks wrong about the labels of a split as a whole, and about its splits beside each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data.classes import same_classes
from data.doctor.report import Report, Suspect
from data.formats.rows import KEPT, SUSPECT, show_box
from utils.config import ConfigError
from utils.files import read_regular
from utils.structures import LabelledImages, LabelProblem
from utils.text import listed

WHOLE = 0.995
"""Part of both sides of a picture that a box of the whole picture covers."""

SLIVER = 25
"""Sides of a box whose longer one is so many times the shorter one."""

CROWDED = 10
"""A picture with so many times the objects of the middle one, and three times those of 95 % of all, stands out."""

SKEWED, SURE = 2.0, 4.0
"""A class whose share of the pictures differs by this factor and by this many standard errors."""


def suspicious_boxes(data: LabelledImages) -> Iterator[Suspect]:
    """Boxes of the whole picture and slivers; crowd regions may be both."""
    samples = data.samples
    index = np.flatnonzero(~samples.crowd)
    owner = samples.image_index()
    sides = samples.boxes[index, 2:] - samples.boxes[index, :2]
    whole = (sides / samples.sizes[owner[index], ::-1] >= WHOLE).all(axis=1)
    ratio = sides.max(axis=1, initial=0) / np.maximum(sides.min(axis=1, initial=np.inf), 1e-9)
    for kind, rows in (("whole", np.flatnonzero(whole)), ("sliver", np.flatnonzero(ratio > SLIVER))):
        for row in rows.tolist():
            image, box = samples.path(int(owner[index[row]])), samples.boxes[index[row]]
            named = f"the '{data.names[samples.labels[index[row]]]}' box {show_box(box)}"
            what = f"{named} covers the whole picture"
            if kind == "sliver":
                what = f"{named} is a sliver, {sides[row, 0]:.4g} x {sides[row, 1]:.4g} px"
            rank = float(ratio[row]) if kind == "sliver" else 0.0
            yield Suspect(LabelProblem(str(image), what, SUSPECT), image, box, rank)


def crowded_pictures(data: LabelledImages) -> Iterator[Suspect]:
    """Pictures with far more objects than the others: those of another picture may have been added."""
    counts = np.diff(data.samples.ends)
    filled = counts[counts > 0]
    if len(filled) < 20:
        return
    middle, high = np.percentile(filled, (50, 95))
    for index in np.flatnonzero(counts > max(CROWDED * middle, 3 * high)).tolist():
        path = data.samples.path(index)
        what = f"{counts[index]} objects, where half of the pictures have at most {middle:.0f}"
        yield Suspect(LabelProblem(str(path), what, SUSPECT), path, None, float(counts[index]))


def copied_label_files(splits: Mapping[str, LabelledImages]) -> Iterator[tuple[str, Suspect]]:
    """Label files with two objects or more that have the same bytes as that of another picture."""
    first: dict[bytes, tuple[str, Path]] = {}
    for split, data in splits.items():
        for index in np.flatnonzero(np.diff(data.samples.ends) > 1).tolist():
            image = data.samples.path(index)
            file = data.label_files.get(image)
            if file is None or file.suffix.lower() == ".xml":  # XML names its picture
                continue
            try:
                digest = hashlib.blake2b(read_regular(file), digest_size=16).digest()
            except OSError:
                continue
            other, earlier = first.setdefault(digest, (split, file))
            if earlier != file:
                what = f"the same bytes as {earlier} in {other}, for another picture"
                yield split, Suspect(LabelProblem(str(file), what, KEPT), image)


def compare_classes(splits: Mapping[str, LabelledImages], report: Report) -> Iterator[tuple[str, LabelProblem]]:
    """Classes that differ between splits, that nothing can be learned or measured about, or that are dealt unevenly."""
    source = report.source
    for split, data in splits.items():
        try:
            matched = same_classes(next(iter(splits.values())), data)
            yield from ((split, problem) for problem in matched.problems[len(data.problems) :])
        except ConfigError as error:
            yield split, LabelProblem(source, str(error), "the splits cannot be used together")
    for split, facts in report.splits.items():
        empty = [name for name, counts in facts.classes.items() if counts["objects"] == 0]
        if empty and facts.objects:
            names = f"{len(empty)} of {len(facts.classes)} classes have no object: {listed(empty)}"
            yield split, LabelProblem(source, names, KEPT)
    train = report.splits.get("train")
    for split, facts in report.splits.items():
        if train is None or split == "train":
            continue
        unseen = [
            name for name, counts in facts.classes.items()
            if counts["objects"] and not train.classes.get(name, {"objects": 0})["objects"]
        ]  # fmt: skip
        if unseen:
            yield split, LabelProblem(source, f"{split} has objects of {listed(unseen)}, and train none", KEPT)
        for name, counts in facts.classes.items():
            one, other = train.classes.get(name, {"images": 0})["images"], counts["images"]
            if shares := skew(one, train.images, other, facts.images):
                what = f"'{name}' is in {shares[1]:.1%} of the pictures, but in {shares[0]:.1%} of those of train"
                yield split, LabelProblem(source, what, SUSPECT)


def skew(one: int, images: int, other: int, others: int) -> tuple[float, float] | None:
    """Two shares, `one` of `images` and `other` of `others`, if they differ by more than chance."""
    if not one or not other:
        return None
    shares = one / images, other / others
    pooled = (one + other) / (images + others)
    error = (pooled * (1 - pooled) * (1 / images + 1 / others)) ** 0.5
    factor = max(shares) / min(shares)
    return None if factor < SKEWED or abs(shares[0] - shares[1]) < SURE * error else shares

"""The examination: read every split, decode every picture, check the labels, compare the splits."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from data.config import SPLITS, DataConfig
from data.doctor.checks import compare_classes, copied_label_files, crowded_pictures, suspicious_boxes
from data.doctor.pictures import Pictures, compare_pictures, examine_pictures
from data.doctor.report import Report, count
from data.formats.label_places import ORPHAN, shared_files
from data.formats.rows import LEFT_OUT, NEEDED
from data.read import guess_task, read_split
from data.tiles import tile_counts
from utils.config import ConfigError
from utils.packed import Packed
from utils.structures import LabelledImages, LabelProblem

_BOX = re.compile(r"box \[(-?[0-9.e+-]+), (-?[0-9.e+-]+), (-?[0-9.e+-]+), (-?[0-9.e+-]+)\]")
"""A box in a message."""

_LINE = re.compile(r"(:[0-9]+)?(: (shape|annotation) .*)?$")
"""A line, and what is there, behind the name of a file."""

_LEFT_OUT = "the split cannot be used"


def examine(
    config: DataConfig, *, image_size: tuple[int, int] = (640, 640), truth: Literal["whole", "none"] = "whole"
) -> tuple[Report, dict[str, LabelledImages]]:
    """Everything that is wrong with a data set, and its splits without the images that cannot be used.

    Args:
        image_size: (height, width) of the network input, for the sizes of objects in it.
        truth: as of `read_split`; the ground truth takes most of the memory, and is needed to write a set.
    """
    report, splits = (
        Report(str(config.source), image_size=image_size, root=str(config.path)),
        dict[str, LabelledImages](),
    )
    unreadable = "image" if config.unreadable == "run" else config.unreadable
    lenient = replace(config, labels="warn", unreadable=unreadable)
    pictures: dict[str, Pictures] = {}
    task = guess_task(config)
    for split in SPLITS:
        if getattr(config, split) is None:
            continue
        try:
            data = read_split(lenient, split, task=task, thorough=True, truth=truth)
        except ConfigError as error:
            message = str(error).removeprefix(f"{config.source}: ")
            absent = config.test is not None and not config.test.exists()  # exporters name it without writing it
            spare = split == "test" and absent and bool(splits)
            report.add(split, LabelProblem(str(config.source), message, _LEFT_OUT), "warning" if spare else None)
            continue
        problems = Packed(LabelProblem, data.problems)
        pictures[split] = examine_pictures(data.samples, problems, title=f"Examining {split}")
        _add_problems(report, split, problems, data)
        usable = pictures[split].usable
        samples = data.samples if usable.all() else data.samples.take(np.flatnonzero(usable))
        if not samples:
            report.add(split, LabelProblem(str(config.source), "no image is left", _LEFT_OUT))
            continue
        splits[split] = replace(data, samples=samples)
        report.splits[split] = count(splits[split], image_size)
        tiles = tile_counts(splits[split]) if split == "train" else None
        if tiles is not None and tiles.warning:
            report.add(split, LabelProblem(str(config.source), tiles.warning, LEFT_OUT), "warning")
        for suspect in (*suspicious_boxes(splits[split]), *crowded_pictures(splits[split])) if task == "detect" else ():
            report.add_suspect(split, suspect)
    if splits and config.val is None:
        report.add(next(iter(splits)), LabelProblem(str(config.source), "there is no split 'val'", NEEDED))
    _compare(report, splits, pictures)
    return report, splits


def _add_problems(report: Report, split: str, problems: Packed[LabelProblem], data: LabelledImages) -> None:
    """What was found while reading, with the picture and the box where the message tells them."""
    places = {_file_of(problem.where) for problem in problems} | {problem.where for problem in problems}
    if not places:
        return
    image_of = {str(file): str(image) for image, file in data.label_files.items() if str(file) in places}
    images = {text for index in range(len(data.samples)) if (text := str(data.samples.path(index))) in places}
    told: set[str] = set()
    if any(problem.what == ORPHAN for problem in problems):  # of labels that splits share
        told = {finding.where for finding in report.findings if finding.what == ORPHAN}
    for problem in problems:
        if problem.what == ORPHAN and problem.where in told:
            continue
        image = problem.where if problem.where in images else image_of.get(_file_of(problem.where))
        found = _BOX.search(problem.what)
        numbers = [float(number) for number in found.groups()] if found else []
        box = (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None
        report.add(split, problem, image=image, box=box if image else None)


def _file_of(where: str) -> str:
    """The file of a place, without the line and what is there."""
    return _LINE.sub("", where)


def _compare(report: Report, splits: Mapping[str, LabelledImages], pictures: Mapping[str, Pictures]) -> None:
    """Add what is found between splits."""
    for split, problem in (*compare_classes(splits, report), *shared_files(splits)):
        report.add(split, problem)
    for split, suspect in itertools.chain(copied_label_files(splits), compare_pictures(splits, pictures)):
        report.add_suspect(split, suspect)

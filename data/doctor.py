"""Command: everything that is wrong with a data set, with file and line: `python -m data.doctor DATA`.

In addition to what every run reports (see `data.read.read_split`), it decodes every image, compares the pixels of all
splits, and lists objects that are tiny or labelled twice and classes without objects.
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.classes import same_classes
from data.config import SPLITS, DataConfig, load_data_config
from data.convert import write_class_folders, write_dataset
from data.doctor_html import to_html
from data.formats import coco
from data.formats.assemble import size_mismatch
from data.formats.label_places import shared_files
from data.formats.rows import (
    BACKGROUND,
    CLIPPED,
    COMPLETED,
    KEPT,
    KEYPOINTS,
    LEFT_OUT,
    LISTED,
    MATCHED,
    NOTES,
    OUTLINES,
    REPAIRED,
    SUMMED,
    SUSPECT,
)
from data.images import read_image
from data.read import guess_task, label_format, read_split
from utils.arguments import Parser
from utils.config import ConfigError
from utils.log import say, say_error, setup_logging, tracked
from utils.structures import LabelledImages, LabelProblem, Sample, Samples
from utils.text import listed, printable, shorten, to_json

Severity = Literal["error", "warning", "note"]

EXIT_STATUS = {"clean": 0, "warnings": 1, "errors": 2}

SEVERITY: dict[str, Severity] = {
    CLIPPED: "warning",
    REPAIRED: "warning",
    KEPT: "warning",
    LISTED: "warning",
    BACKGROUND: "warning",
    SUSPECT: "note",
    OUTLINES: "note",
    KEYPOINTS: "note",
    COMPLETED: "note",
    MATCHED: "note",
}
"""By the action that a run takes; every other action drops or changes something, which is an error."""

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits of area in pixels, small objects below and medium objects below."""

THREADS = 8
"""Threads that decode images; Pillow and the digest release the interpreter lock."""


@dataclass(frozen=True)
class Finding:
    """One problem: its severity, split and place, what it is, and what a run does about it."""

    severity: Severity
    split: str
    where: str
    what: str
    action: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.split}: {LabelProblem(self.where, self.what, self.action)}"


@dataclass(frozen=True)
class SplitFacts:
    """What a split holds, without crowd regions: objects and images by class, objects by COCO's sizes."""

    images: int
    objects: int
    crowd: int
    background: int
    sizes: dict[str, int]
    classes: dict[str, dict[str, int]]


@dataclass
class Report:
    """All findings about a data set, and what its splits hold."""

    source: str
    splits: dict[str, SplitFacts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def status(self) -> str:
        """'errors', 'warnings' or 'clean'; notes do not count."""
        severities = {finding.severity for finding in self.findings}
        return "errors" if "error" in severities else "warnings" if "warning" in severities else "clean"

    def add(self, split: str, problem: LabelProblem, severity: Severity | None = None) -> None:
        """Add a problem; its severity follows from the action taken."""
        severity = severity or SEVERITY.get(problem.action, "error")
        self.findings.append(Finding(severity, split, problem.where, problem.what, problem.action))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        counts = Counter(finding.severity for finding in self.findings)
        return {
            "source": self.source,
            "status": self.status,
            **{f"{severity}s": counts[severity] for severity in ("error", "warning", "note")},
            "splits": {split: asdict(facts) for split, facts in self.splits.items()},
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(config: DataConfig) -> tuple[Report, dict[str, LabelledImages]]:
    """Everything that is wrong with a data set, and its splits without the images that cannot be used."""
    report, splits = Report(str(config.source)), dict[str, LabelledImages]()
    unreadable = "image" if config.unreadable == "run" else config.unreadable
    lenient = replace(config, labels="warn", unreadable=unreadable)
    digests: dict[str, list[bytes]] = {}
    task = guess_task(config)
    for split in SPLITS:
        if getattr(config, split) is None:
            continue
        try:
            data = read_split(lenient, split, task=task, thorough=True)
        except ConfigError as error:
            message = str(error).removeprefix(f"{config.source}: ")
            report.add(split, LabelProblem(str(config.source), message, "the split cannot be used"))
            continue
        notes: list[LabelProblem] = []
        results = examine_images(data.samples, notes, title=f"Examining {split}")
        for problem in (*data.problems, *(result for result in results if isinstance(result, LabelProblem)), *notes):
            report.add(split, problem)
        digests[split] = [result for result in results if isinstance(result, bytes)]
        usable = (sample for sample, result in zip(data.samples, results, strict=True) if isinstance(result, bytes))
        usable_data = replace(data, samples=Samples.of(usable))
        if not usable_data.samples:
            report.add(split, LabelProblem(str(config.source), "no image is left", "the split cannot be used"))
            continue
        splits[split] = usable_data
        report.splits[split] = count(usable_data)
    for split, problem in (*compare_classes(splits, report), *shared_files(splits)):
        report.add(split, problem)
    for split, problem in compare_images(splits, digests):
        report.add(split, problem, "warning")
    return report, splits


def examine_images(samples: Sequence[Sample], notes: list[LabelProblem], *, title: str) -> list[bytes | LabelProblem]:
    """Decode every image of a split: a digest of its pixels, or why it cannot be used.

    Args:
        notes: where to add what is wrong with images that are used all the same.
    """
    results: list[bytes | LabelProblem] = []
    with ThreadPoolExecutor(THREADS) as pool:
        examined = tracked(pool.map(_examine_image, samples), len(samples), title)
        for sample, (result, remarks) in zip(samples, examined, strict=True):
            results.append(result)
            notes += [LabelProblem(str(sample.path), remark, KEPT) for remark in remarks]
    return results


def compare_images(
    splits: Mapping[str, LabelledImages], digests: Mapping[str, Sequence[bytes]]
) -> Iterator[tuple[str, LabelProblem]]:
    """Images whose pixels are those of an earlier image, of this split or another, as (split, problem)."""
    first: dict[bytes, tuple[str, Path]] = {}
    for split, data in splits.items():
        for sample, digest in zip(data.samples, digests[split], strict=True):
            if digest not in first:
                first[digest] = (split, sample.path)
                continue
            other, path = first[digest]
            leak = "" if other == split else ", so the measured accuracy is too good"
            yield split, LabelProblem(str(sample.path), f"the same picture as {path} in {other}{leak}", KEPT)


def compare_classes(splits: Mapping[str, LabelledImages], report: Report) -> Iterator[tuple[str, LabelProblem]]:
    """Classes that differ between splits, and classes that nothing can be learned or measured about."""
    for split, data in splits.items():
        try:
            matched = same_classes(next(iter(splits.values())), data)
            yield from ((split, problem) for problem in matched.problems[len(data.problems) :])
        except ConfigError as error:
            yield split, LabelProblem(report.source, str(error), "the splits cannot be used together")
    for split, facts in report.splits.items():
        empty = [name for name, counts in facts.classes.items() if counts["objects"] == 0]
        if empty and facts.objects:
            names = f"{len(empty)} of {len(facts.classes)} classes have no object: {listed(empty)}"
            yield split, LabelProblem(report.source, names, KEPT)


def count(data: LabelledImages) -> SplitFacts:
    """The facts of one split."""
    samples, objects_only = data.samples, ~data.samples.crowd
    labels, boxes = samples.labels[objects_only], samples.boxes[objects_only]
    objects = np.bincount(labels, minlength=len(data.names)).tolist()
    pairs = np.unique(np.stack((samples.image_index()[objects_only], labels)), axis=1)  # each class of an image once
    images = np.bincount(pairs[1], minlength=len(data.names)).tolist()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    small, large = int((areas < SMALL).sum()), int((areas >= MEDIUM).sum())
    return SplitFacts(
        images=len(data),
        objects=sum(objects),
        crowd=int(samples.crowd.sum()),
        background=int((np.diff(samples.ends) == 0).sum()),
        sizes={"small": small, "medium": len(areas) - small - large, "large": large},
        classes={name: {"objects": objects[label], "images": images[label]} for label, name in enumerate(data.names)},
    )


def fix(config: DataConfig, splits: dict[str, LabelledImages], folder: Path) -> list[str]:
    """Write the data set without what is wrong into a new folder, in its own label format.

    Boxes are clipped or left out as the findings say, and so are images that cannot be used. What only looks wrong
    (tiny boxes, duplicates, the same picture twice) stays: a person has to look at it.
    """
    if not splits:
        raise ConfigError(f"{config.source}: no split can be used, so there is nothing to write")
    if next(iter(splits.values())).task == "classify":
        return write_class_folders(splits, folder)
    form = label_format(config, next(iter(splits)))
    return write_dataset({split: coco.mend(data) for split, data in splits.items()}, folder, form)


def what_changed(report: Report) -> str:
    """How many findings changed the data, by what was done about them."""
    actions = Counter(finding.action for finding in report.findings if finding.action not in NOTES)
    return "Findings: " + (", ".join(f"{count} {SUMMED.get(a, a)}" for a, count in actions.most_common()) or "none")


def to_text(report: Report) -> str:
    """The report for a terminal: every finding on a line, then the classes of each split."""
    lines = [str(finding) for finding in report.findings]
    for split, facts in report.splits.items():
        lines.append(
            f"\n{split}: {facts.images} images ({facts.background} without objects), {facts.objects} objects "
            f"({', '.join(f'{number} {size}' for size, number in facts.sizes.items())}), {facts.crowd} crowd regions"
        )
        width = max(len(shorten(name)) for name in facts.classes)
        for name, counts in facts.classes.items():
            share = counts["objects"] / max(facts.objects, 1)
            lines.append(
                f"  {shorten(name):{width}}  {counts['objects']:8} objects {share:6.1%}  in {counts['images']} images"
            )
    totals = report.as_dict()
    lines.append(
        f"\n{report.source}: {totals['errors']} errors, {totals['warnings']} warnings, {totals['notes']} notes"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0 for a clean data set, 1 for warnings, 2 for errors."""
    parser = Parser(prog="python -m data.doctor", description="Say what is wrong with a data set.")
    parser.add_argument("data", metavar="DATA", help="data YAML: a path, or a name in cfg/data/")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write a report as one HTML file")
    parser.add_argument("--fix", metavar="FOLDER", type=Path, help="also write a cleaned copy into a new folder")
    args = parser.parse_args(argv)
    setup_logging(rank=1 if args.json else 0)  # nothing but JSON on standard output
    try:
        config = load_data_config(args.data)
        report, splits = examine(config)
        say(to_json(report.as_dict(), indent=1) if args.json else to_text(report))
        if args.html:
            args.html.parent.mkdir(parents=True, exist_ok=True)
            args.html.write_text(to_html(report.as_dict()), encoding="utf-8")
        lines = [*fix(config, splits, args.fix), what_changed(report)] if args.fix else []
    except (ValueError, OSError) as error:
        say_error(error)
        return EXIT_STATUS["errors"]
    for line in lines:
        say(line, error=args.json)
    return EXIT_STATUS[report.status]


def _examine_image(sample: Sample) -> tuple[bytes | LabelProblem, list[str]]:
    path, notes = str(sample.path), list[str]()
    try:
        image = read_image(sample.path, notes=notes)
    except ValueError as error:
        return LabelProblem(path, str(error).removeprefix(f"{printable(path)}: "), LEFT_OUT), notes
    height, width = image.shape[:2]
    if (height, width) != (sample.height, sample.width):
        return LabelProblem(path, size_mismatch(sample, (height, width)), LEFT_OUT), notes
    person = f"{height}x{width}".encode()[:16]
    return hashlib.blake2b(image.data, digest_size=16, person=person).digest(), notes


if __name__ == "__main__":
    run_program(main)

"""What the doctor says: findings, their sums by kind, and what each split holds."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.balance import rare_classes
from data.doctor.findings import SEVERITIES, SEVERITY, Finding, Findings, Severity
from data.tiles import tile_counts
from utils.structures import LabelledImages, LabelProblem
from utils.text import printable, shorten, to_json

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits of area in pixels, small objects below and medium objects below."""

EXAMPLES = 3
"""Places that a line of the summary names."""


@dataclass(frozen=True)
class Suspect:
    """A problem with what shows it.

    Args:
        image: the picture; box: (4,) the place in it; labelled: (4,) the label that the box disputes.
        rank: as of a Finding.
        twin: the picture that `image` is like.
    """

    problem: LabelProblem
    image: Path
    box: np.ndarray | None = None
    rank: float = 0.0
    labelled: np.ndarray | None = None
    twin: Path | None = None


@dataclass(frozen=True)
class SplitFacts:
    """What a split holds, without crowd regions: objects and images by class, objects by COCO's sizes.

    Args:
        sides: at the training size: how many objects have a longer side below 8, 16, ... pixels of the network input.
        tiles: of a split with `tiling`: how many, `filled` those with an object, `empty` those without, `ignored` parts
            of cut objects, `lost` objects that no tile shows enough of. Empty without.
    """

    images: int
    objects: int
    crowd: int
    background: int
    sizes: dict[str, int]
    classes: dict[str, dict[str, int]]
    sides: dict[str, int] = field(default_factory=dict)
    tiles: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{number} {size}" for size, number in self.sizes.items())
        objects = f"{self.images} images ({self.background} without objects), {self.objects} objects ({sizes})"
        text = f"{objects}, {self.crowd} crowd regions"
        if self.tiles:
            filled = f"{self.tiles['filled']} with an object, {self.tiles['empty']} without"
            text += f"; {self.tiles['tiles']} tiles ({filled}), {self.tiles['ignored']} cut objects in them are ignored"
        return text


@dataclass
class Report:
    """All findings about a data set, and what its splits hold.

    Args:
        image_size: (height, width) of the network input that `SplitFacts.sides` are for.
        root: folder of the set.
    """

    source: str
    splits: dict[str, SplitFacts] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    image_size: tuple[int, int] = (640, 640)
    root: str = ""

    @property
    def status(self) -> str:
        """'errors', 'warnings' or 'clean'; notes do not count."""
        severities = self.findings.severities
        return "errors" if severities["error"] else "warnings" if severities["warning"] else "clean"

    def add(self, split: str, problem: LabelProblem, severity: Severity | None = None, **seen: Any) -> None:
        """Add a problem; its severity follows from the action taken. `seen` are further fields of a Finding."""
        severity = severity or SEVERITY.get(problem.action, "error")
        self.findings.append(Finding(severity, split, problem.where, problem.what, problem.action, **seen))

    def add_suspect(self, split: str, suspect: Suspect) -> None:
        """Add a problem with what shows it."""
        box, labelled = (None if box is None else tuple(box.tolist()) for box in (suspect.box, suspect.labelled))
        twin = None if suspect.twin is None else str(suspect.twin)
        image = suspect.problem.where if suspect.problem.where == str(suspect.image) else str(suspect.image)  # one text
        seen: dict[str, Any] = {"box": box, "labelled": labelled, "twin": twin, "rank": suspect.rank}
        self.add(split, suspect.problem, image=image, **seen)

    def grouped(self) -> list[KindSum]:
        """The findings by severity, split and kind: the most severe first, then the most frequent."""
        sums = [
            KindSum(*place, kind.title, kind.remedy, action, findings, self.images(place[1]))
            for (place, kind, action), findings in self.findings.groups()
        ]
        return sorted(sums, key=lambda one: (SEVERITIES.index(one.severity), -len(one.findings)))

    def images(self, split: str) -> int:
        """The images of a split; 0 where it cannot be used."""
        return self.splits[split].images if split in self.splits else 0

    def as_dict(self, findings: Iterable[Finding] | None = None) -> dict[str, Any]:
        """Plain values for --json.

        Args:
            findings: those that are listed one by one; all of them when None.
        """
        counts = self.findings.severities
        return {
            "source": self.source,
            "status": self.status,
            **{f"{severity}s": counts[severity] for severity in SEVERITIES},
            "image_size": list(self.image_size),
            "splits": {split: asdict(facts) for split, facts in self.splits.items()},
            "kinds": [each.as_dict() for each in self.grouped()],
            "findings": [asdict(finding) for finding in (self.findings if findings is None else findings)],
        }


@dataclass(frozen=True)
class KindSum:
    """The findings of one kind in one split, those that are worst first; `images` are those of the split."""

    severity: Any
    split: str
    title: str
    remedy: str
    action: str
    findings: Sequence[Finding]
    images: int

    def __str__(self) -> str:
        count = len(self.findings)
        if count == 1:
            return f"{self.findings[0]}. Remedy: {self.remedy}"
        places = "; ".join(shorten(finding.where, 120) for finding in self.findings[:EXAMPLES])
        more = f" and {count - EXAMPLES} more" if count > EXAMPLES else ""
        first = shorten(self.findings[0].what, 200)
        of = f" (of {self.images} pictures)" if self.title.startswith(("picture", "scene")) else ""
        return (
            f"{self.severity}: {self.split}: {count} x {self.title}{of}; {printable(self.action)}. The first: {first}. "
            f"In {places}{more}. Remedy: {self.remedy}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the first examples."""
        return {
            "severity": self.severity,
            "split": self.split,
            "kind": self.title,
            "count": len(self.findings),
            "action": self.action,
            "remedy": self.remedy,
            "examples": [{"where": each.where, "what": each.what} for each in self.findings[:EXAMPLES]],
        }


def count(data: LabelledImages, image_size: tuple[int, int] = (640, 640)) -> SplitFacts:
    """The facts of one split.

    Args:
        image_size: (height, width) of the network input, into which pictures are letterboxed.
    """
    samples, objects_only = data.samples, ~data.samples.crowd
    labels, boxes = samples.labels[objects_only], samples.boxes[objects_only]
    owners = samples.image_index()[objects_only]
    objects = np.bincount(labels, minlength=len(data.names)).tolist()
    cells = np.unique(owners * max(len(data.names), 1) + labels)  # each class of an image once
    images = np.bincount(cells % max(len(data.names), 1), minlength=len(data.names)).tolist()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    small, large = int((areas < SMALL).sum()), int((areas >= MEDIUM).sum())
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0)
    inputs = samples.sizes if data.tiling is None else np.minimum(samples.sizes, data.tiling.size)
    scaled = longer * (np.array(image_size) / np.maximum(inputs, 1)).min(axis=1)[owners]
    limits = [8, 16, 32, 64, 128, 256, 512]
    shares = np.bincount(np.searchsorted(limits, scaled, side="right"), minlength=len(limits) + 1).tolist()
    names = [f"< {limits[0]}", *(f"{low}-{high}" for low, high in itertools.pairwise(limits))]
    return SplitFacts(
        images=len(data),
        objects=sum(objects),
        crowd=int(samples.crowd.sum()),
        background=int((np.diff(samples.ends) == 0).sum()),
        sizes={"small": small, "medium": len(areas) - small - large, "large": large},
        classes={name: {"objects": objects[label], "images": images[label]} for label, name in enumerate(data.names)},
        sides=dict(zip([*names, f">= {limits[-1]}"], shares, strict=True)),
        tiles=_tiles(data),
    )


def _tiles(data: LabelledImages) -> dict[str, int]:
    """The numbers of `SplitFacts.tiles`."""
    counts = tile_counts(data)
    if counts is None:
        return {}
    numbers = ("filled", "empty", "ignored", "lost")
    return {"tiles": counts.kept, **{name: getattr(counts, name) for name in numbers}}


def to_text(report: Report, *, everything: bool = False) -> str:
    """The report for a terminal: a line for each kind of finding (or for each), then the classes of each split."""
    return "\n".join(text_lines(report, everything=everything))


def text_lines(report: Report, *, everything: bool = False) -> Iterator[str]:
    """The lines of `to_text`."""
    if everything:
        yield from map(str, report.findings)
    kinds = report.grouped()
    if not everything:  # places as seen from the set
        yield from (str(each).replace(f"{printable(report.root)}/", "") for each in kinds)
    for split, facts in report.splits.items():
        yield f"\n{split}: {facts}"
        width = max(len(shorten(name)) for name in facts.classes)
        for name, counts in facts.classes.items():
            share = counts["objects"] / max(facts.objects, 1)
            yield f"  {shorten(name):{width}}  {counts['objects']:8} objects {share:6.1%}  in {counts['images']} images"
        if rare := rare_hint(split, facts):
            yield f"  {rare}"
    totals = ", ".join(f"{report.findings.severities[severity]} {severity}s" for severity in SEVERITIES)
    more = "" if everything or len(report.findings) == len(kinds) else "; --all lists each"
    yield f"\n{report.source}: {totals}{more}"


def json_lines(report: Report) -> Iterator[str]:
    """The text of `Report.as_dict` as JSON, a line or more at a time."""
    head, tail = to_json(report.as_dict([]), indent=1), '"findings": []\n}'
    if not report.findings:
        yield head
        return
    yield head.removesuffix(tail) + '"findings": ['
    for number, finding in enumerate(report.findings, start=1):
        comma = "," if number < len(report.findings) else ""
        yield textwrap.indent(to_json(asdict(finding), indent=1), "  ") + comma
    yield " ]\n}"


def rare_hint(split: str, facts: SplitFacts) -> str:
    """Which classes of the training split are rare; empty where none is."""
    seen = np.array([counts["images"] for counts in facts.classes.values()])
    rare = rare_classes(list(facts.classes), seen, facts.images) if split == "train" else ""
    return f"Rare: {rare} images; training shows them more often, and more images of them help more" if rare else ""

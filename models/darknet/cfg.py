"""Darknet's cfg files: text <-> sections, and the model configuration of a cfg."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.darknet.heads import DETECTORS, END_ACTIVATIONS, REGION, Level, plan_classifier, plan_levels
from models.darknet.keys import ALIASES, KINDS, REFUSED, convert, known_keys, neutral_keys
from models.darknet.model_sections import write_sections
from models.darknet.plan import plan_layers
from models.darknet.problems import Remarks
from models.darknet.sections import Section
from models.detector import Detector
from utils.config import ConfigError, did_you_mean, nearest
from utils.files import open_regular
from utils.text import shorten, shown

logger = logging.getLogger(__name__)

MOST_BYTES = 2_000_000
MOST_SECTIONS = 5_000
"""The longest published cfgs have some 60,000 bytes and 700 sections."""
_OTHER_NETWORK = "Without it the same weights give other results: run this network with darknet, or take another one"


def read_cfg(path: Path) -> list[Section]:
    """The sections of a cfg file, [net] first.

    Raises:
        ConfigError: the file cannot be read, or everything that is wrong in it, with line numbers.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: expected a cfg file of darknet, below {MOST_BYTES:,} bytes; found more")
    return parse_cfg(data.decode("utf-8-sig", errors="replace"), where=str(path))  # comments come in many encodings


def parse_cfg(text: str, *, where: str) -> list[Section]:
    """The sections of a cfg text, [net] first.

    Lines are `[section]`, `key=value`, blank, or comments after # or ;. As in darknet, spaces mean nothing and the
    first of two equal keys counts. Keys that darknet does not know are ignored, with a warning.

    Args:
        where: the file, for messages.
    Raises:
        ConfigError: everything that is wrong, each mistake once, with line numbers.
    """
    reader = _Reader(where)
    for number, raw in enumerate(text.splitlines(), 1):
        line = "".join(raw.split("#")[0].split(";")[0].split())
        if line and not reader.read(number, line):
            break
    for remark in reader.warnings.lines():
        logger.warning("%s", remark)
    if reader.problems:
        raise ConfigError(*reader.problems.lines())
    if not reader.sections:
        raise ConfigError(f"{where}: expected darknet sections like [net] and [convolutional], found none")
    if len(reader.sections) == 1:
        raise ConfigError(f"{where}: expected layers after [net], found none")
    return reader.sections


class _Reader:
    """Reads line after line, and collects sections, mistakes and warnings."""

    def __init__(self, where: str) -> None:
        self.sections: list[Section] = []
        self.problems, self.warnings = Remarks(where), Remarks(where)
        self.options: dict[str, str | int] | None = None  # of the section being read; None while that one is refused
        self.supported = f" Supported: {', '.join(f'[{kind}]' for kind in KINDS)}"  # told once

    def read(self, number: int, line: str) -> bool:
        """Read a line that is not empty; whether those after it can be understood."""
        try:
            if line.startswith("["):
                self.options = None
                self.options = self.open_section(number, line)
            elif not self.sections:
                raise ValueError(f"expected [net] before anything else, found {shown(line)}")
            elif self.options is not None:
                self.add_option(number, self.sections[-1].kind, line)
        except ValueError as error:
            self.problems.add(number, str(error))
        return bool(self.sections) and len(self.sections) <= MOST_SECTIONS

    def open_section(self, number: int, line: str) -> dict[str, str | int] | None:
        """The options of the section that a line opens; None of one that is not known or not supported.

        Raises:
            ValueError: no section, or [net] in the wrong place.
        """
        word = line.strip("[]")
        kind = ALIASES.get(word, word)
        if not line.endswith("]"):
            raise ValueError(f"expected a section like [convolutional], found {shown(line)}")
        if (not self.sections) != (kind == "net"):
            expected = "once, at the top" if self.sections else "first"
            raise ValueError(f"expected [net] {expected}, found [{shorten(word)}]")
        if len(self.sections) == MOST_SECTIONS:
            raise ValueError(f"expected at most {MOST_SECTIONS:,} sections")
        if kind in KINDS:
            self.sections.append(Section(kind, number, {}))
            return self.sections[-1].options
        near = nearest(word, (*KINDS, *REFUSED)) if kind not in REFUSED else None
        reason = f"no section of darknet.{f' Did you mean [{near}]?' if near else ''}"
        if kind in REFUSED:
            reason = "a section of darknet that is not supported here."
        self.problems.add(number, f"[{shorten(word)}] is {reason}{self.supported}", kind=("section", word))
        self.supported = ""
        return None

    def add_option(self, number: int, kind: str, line: str) -> None:
        """Read `key=value` into the section.

        Raises:
            ValueError: no such form, or a value of the wrong type.
        """
        assert self.options is not None
        key, equals, value = line.partition("=")
        if not equals or not key:
            raise ValueError(f"expected key=value or [section], found {shown(line)}")
        known, neutral = known_keys(kind), neutral_keys(kind).get(key)
        if key not in known:
            hint = did_you_mean(key, known)
            ignored = f"[{kind}] knows no key {shown(key)}; it is ignored, as darknet does.{hint}"
            self.warnings.add(number, ignored)
            return
        if key in self.options:
            self.warnings.add(number, f"'{key}' stands twice in this section; the first counts, as in darknet")
            return
        try:
            convert(value, known[key])
        except ValueError as error:
            raise ValueError(f"[{kind}] {key}: {error}") from None
        if neutral is not None and not neutral.allows(value):
            told = f"[{kind}] {key}={shorten(value)} is not supported: {neutral.effect}. {_OTHER_NETWORK}"
            self.problems.add(number, told, kind=(kind, key))
        self.options[key] = _plain(value)


def _plain(value: str) -> str | int:
    """Whole numbers as int where that loses nothing, so that a configuration file reads well."""
    short = len(value) < 20 and value.lstrip("-").isdecimal()
    return int(value) if short and str(int(value)) == value else value


def format_cfg(sections: Sequence[Section]) -> str:
    """The text of a cfg file."""
    blocks = (
        "\n".join((f"[{section.kind}]", *(f"{key}={value}" for key, value in section.options.items())))
        for section in sections
    )
    return "\n\n".join(blocks) + "\n"


def model_values(sections: Sequence[Section]) -> dict[str, Any]:
    """The configuration of a detector or classifier from its cfg, as plain values: the keys of ModelConfig.

    The convolution before each yolo or region layer, or a classifier's last one with its pool, becomes part of the
    head; the rest is the backbone. The values contain the sections, so a checkpoint needs no cfg beside it.

    Raises:
        ValueError: layers that do not fit together, or an end of another kind.
    """
    net = sections[0]
    with torch.device("meta"):  # shapes are enough here
        layers = plan_layers(sections)
        levels, classifier = plan_levels(sections, layers), plan_classifier(layers)
    width, height = net.integer("width"), net.integer("height")
    values = {
        "backbone": {"type": "darknet_cfg", "sections": [section.to_plain() for section in sections]},
        "neck": None,
        "image_size": width if width == height else [height, width],
        "resize": "letterbox" if net.text("letter_box", "0") == "1" else "stretch",
    }
    if levels:
        last = levels[-1].section
        nms = {"nms": last.text("nms_kind", "default"), "beta_nms": last.number("beta_nms", 0.6)}
        return {**values, "head": _anchor_head(levels) if last.kind == "yolo" else _region_head(levels), **nms}
    if classifier is None:
        raise ValueError(
            "expected at least one [yolo] or [region] section; or, of a classifier, at the end an [avgpool] and a "
            f"[convolutional] with size=1 and activation={' or '.join(END_ACTIVATIONS)}, without batch_normalize; "
            "found neither"
        )
    head: dict[str, Any] = {"type": "classify", "pool": classifier.order, "dropout": classifier.dropout}
    if classifier.activation != "linear":
        head["activation"] = classifier.activation
    return {**values, "head": head, "resize": "crop"}  # as darknet's test of classifiers


def _anchor_head(levels: Sequence[Level]) -> dict[str, Any]:
    """The head's configuration from the yolo sections."""
    last = levels[-1].section
    return {
        "type": "anchor",
        "anchors": _anchors(levels),
        "scale_xy": [level.section.number("scale_x_y", 1.0) for level in levels],
        "size": "square" if last.text("new_coords", "0") == "1" else "exp",
        "box_loss": last.text("iou_loss", "mse"),
    }


def _region_head(levels: Sequence[Level]) -> dict[str, Any]:
    """The head's configuration from the region sections."""
    last = levels[-1].section
    values = {key: last.number(key, default) for key, default in REGION.items()}
    softmax, rescore, bias_match = (bool(values.pop(key)) for key in ("softmax", "rescore", "bias_match"))
    if not softmax:
        logger.warning(
            "%s: softmax=0: a class's score is the sigmoid of its value, as in pjreddie's darknet; in AlexeyAB's it is "
            "the value itself",
            last.where,
        )
    head = {"type": "region", "anchors": _anchors(levels), "softmax": softmax}
    return {**head, "rescore": rescore, "bias_match": bias_match, **values}


def _anchors(levels: Sequence[Level]) -> list[list[float]]:
    """For each level width, height, ... in pixels, whole numbers as int."""
    return [[int(value) if float(value).is_integer() else value for value in level.anchors] for level in levels]


def declared_classes(backbone: Mapping[str, Any]) -> int | None:
    """The number of classes of a cfg, from its backbone's configuration; None for other backbones."""
    if backbone.get("type") != "darknet_cfg":
        return None
    sections = [Section.from_plain(values) for values in backbone["sections"]]
    detector = next((section for section in sections if section.kind in DETECTORS), None)
    if detector is not None:
        return detector.integer("classes", 20)
    last = next((section for section in reversed(sections) if section.kind == "convolutional"), None)
    return None if last is None else last.integer("filters", 1)


MARK = "# Written by CSPDet; boxes are cut to the image before they are counted.\n"
"""First line of a cfg whose model is evaluated like ours, not like darknet's own weights; see ModelInfo.clip."""


def cfg_text(
    model: Detector,
    *,
    image_size: tuple[int, int] | None = None,
    resize: str | None = None,
    nms: Mapping[str, object] | None = None,
) -> str:
    """The text of a cfg file for a model: from a cfg, or from a YAML model of layers that darknet has.

    Args:
        image_size: (height, width) for [net]; by default that of the model's own cfg, else 416 x 416.
        resize: 'letterbox' or 'stretch' for [net]; by default that of the model's own cfg, else stretch.
        nms: 'nms_kind' and 'beta_nms' for [yolo] and [region] sections without them.
    Raises:
        ConfigError: the model has a part that no darknet section describes.
    """
    sections = write_sections(model, image_size=image_size, resize=resize)
    added = {key: str(value) for key, value in (nms or {}).items()}
    return format_cfg(
        [
            replace(each, options={**each.options, **added, **each.options}) if each.kind in DETECTORS else each
            for each in sections
        ]
    )

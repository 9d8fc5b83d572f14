"""The section of docs/benchmark.md with the authors' speeds and times of today, which `benchmarks/inference.py` makes.

Its text stays when the rest of the page is made again: times need an idle machine, counts do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from models.benchmark.measure import published_at
from models.benchmark.page import figure, markdown
from models.benchmark.published import Table, TableRow

COMMAND = "python benchmarks/inference.py --published --threads 2 --wall --markdown docs/benchmark.md"
RUNTIMES = ("PyTorch", "ONNX Runtime", "OpenVINO")
"""What runs our models, each compared with OpenCV."""
THEN = ("GTX 1080 Ti", "Jetson TX2")
"""Devices of the authors' table with a column of their own; the others are CPUs."""

_ABOUT = """\
The first columns are the authors' frames a second, on the devices that they name. The others are of today: the time of
OpenCV's DNN, with the format in which it reads the network, and how many times as fast this project's predictors are
(those of `detect.py --runtime torch|onnx|openvino`). All of them take turns on the same picture, with random weights,
so that other load on the machine slows all of them equally."""


def format_section(table: Table, found: Mapping[str, Mapping[str, float]], *, how: str) -> str:
    """The section as Markdown.

    Args:
        table: the authors' rows.
        found: model file -> contestant -> milliseconds, the contestants as `RUNTIMES` and 'OpenCV, FORMAT'; empty where
            nothing was measured yet.
        how: machine, versions and conditions of the measurement.
    """
    head = ["model", "file", "px", "AP50", *THEN, "CPU then", "OpenCV now", *RUNTIMES]
    lines = [head, *(_line(row, found.get(row.cfg or "", {})) for row in table.rows)]
    measured = f"Measured: {how}." if found else "Not measured yet."
    parts = [f"## {table.title}", f"{table.source}\n{_ABOUT}", f"{measured} Made by `{COMMAND}`."]
    return "\n\n".join([*parts, markdown(lines, keep_empty=True)])


def section_of(page: str, title: str) -> str | None:
    """The section of this title, from its heading to the next one; None if the page has none."""
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    return found and found[0].rstrip()


def with_section(page: str, section: str) -> str:
    """The page with this section in place of the one of the same title.

    Raises:
        ValueError: the page has none.
    """
    title = section.partition("\n")[0].removeprefix("## ")
    old = section_of(page, title)
    if old is None:
        raise ValueError(
            f"expected a section '## {title}'; make the page anew with python -m models.benchmark --markdown"
        )
    return page.replace(old, section)


def _line(row: TableRow, found: Mapping[str, float]) -> list[str]:
    side: int = row.img_size[0] if row.img_size else row.figures["img_size"]
    figures = published_at(row.config().published, side) if row.cfg else row.figures
    speeds = _speeds(figures or {})
    cpu = [f"{fps} ({device})" for device, fps in speeds.items() if device not in THEN]
    opencv = next((name for name in found if name.startswith("OpenCV")), None)
    cells = [f"{found[opencv]:.1f} ms, {1000 / found[opencv]:.0f} fps ({opencv.partition(', ')[2]})" if opencv else ""]
    for runtime in RUNTIMES:
        cells.append(f"{found[opencv] / found[runtime]:.2f}" if opencv and runtime in found else "")
    about = [row.name, row.cfg or "", str(side), figure(figures or {}, "AP50", ".1f")]
    return [*about, *(speeds.get(device, "") for device in THEN), ", ".join(cpu), *cells]


def _speeds(figures: Mapping[str, Any]) -> dict[str, str]:
    """Device -> frames a second."""
    entries: Sequence[Mapping[str, Any]] = [figures, *figures.get("others", [])]
    return {
        each["device"].removesuffix(" with OpenCV DNN"): figure(each, "fps", "g") for each in entries if "fps" in each
    }

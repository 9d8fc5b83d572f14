"""Tables and curves of runs as one HTML file, and whether one run is better than another.

python -m utils.report runs/train/exp runs/train/exp2
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.arguments import Parser, whole_number
from utils.config import ConfigError
from utils.files import write_atomically
from utils.log import say, say_error
from utils.metrics.bootstrap import Comparison, compare
from utils.metrics.figures import DASH
from utils.report_html import to_html
from utils.run import new_run_folder
from utils.run_records import Group, grouped, open_runs


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = Parser(
        prog="python -m utils.report", description="Compare runs: tables, curves, and whether a difference is real."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of train.py or val.py; seeds are grouped")
    parser.add_argument("--samples", type=whole_number, default=500, help="resamples of the images for a comparison")
    parser.add_argument("--html", type=Path, help="the file to write (default: PROJECT/report/report.html)")
    parser.add_argument("--project", type=Path, default=Path("runs", "report"), help="folder of reports")
    parser.add_argument("--json", action="store_true", help="print JSON, write no HTML")
    args = parser.parse_args(argv)
    try:
        groups = grouped(open_runs([Path(name) for name in args.runs]))
        comparisons = [_compare(groups[0], group, samples=args.samples) for group in groups[1:]]
        if args.json:
            say(json.dumps(as_dict(groups, comparisons), indent=2, ensure_ascii=False))
            return 0
        say(as_text(groups, comparisons))
        path = args.html or new_run_folder(args.project, "report") / "report.html"
        write_atomically(path, to_html(groups, comparisons))
        say(f"\nReport: {path}")
    except (ConfigError, ValueError, OSError) as error:
        say_error(error)
        return 2
    return 0


def as_text(groups: Sequence[Group], comparisons: Sequence[Comparison | str]) -> str:
    """The table and the verdicts, for a terminal."""
    keys = groups[0].figure_names[:6]
    width = max(len(group.label) for group in groups)
    lines = [f"{'run':{width}}  " + "  ".join(f"{key:>15}" for key in keys)]
    for group in groups:
        cells = (_figure_text(group, key) if key in group.figure_names else "" for key in keys)
        lines.append(f"{group.label:{width}}  " + "  ".join(f"{text:>15}" for text in cells))
    for group, comparison in zip(groups[1:], comparisons, strict=True):
        lines.append(f"\nA = {groups[0].name}, B = {group.name}: {comparison}")
    return "\n".join(lines)


def as_dict(groups: Sequence[Group], comparisons: Sequence[Comparison | str]) -> dict[str, Any]:
    """The same as plain values."""
    rows = [
        {
            "name": group.name,
            "runs": [str(run.folder) for run in group.runs],
            "mean": {key: group.figure(key).mean for key in group.figure_names},
            "deviation": {key: group.figure(key).deviation for key in group.figure_names},
        }
        for group in groups
    ]
    verdicts = [
        {"note": each} if isinstance(each, str) else {**each.__dict__, "verdict": each.verdict} for each in comparisons
    ]
    return {"groups": rows, "against_first": verdicts}


def _figure_text(group: Group, key: str) -> str:
    """A figure of a group as text, with its standard deviation where there is one; a dash where there is none."""
    mean, deviation = group.figure(key)
    if mean is None:
        return DASH
    return f"{mean:.4g}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"


def _compare(first: Group, second: Group, *, samples: int) -> Comparison | str:
    """The bootstrap of two groups; a text where they have no predictions on the same images."""
    sides = []
    for group in (first, second):
        side = [rows for run in group.runs if (rows := run.predictions) is not None]
        if len(side) < len(group.runs):
            return f"not compared: {group.name} has no predictions.json (val.py writes it with --save-json)"
        sides.append(side)
    runs = (*first.runs, *second.runs)
    truths = [truth for run in runs if (truth := run.ground_truth) is not None]
    if len(truths) < len(runs):
        return "not compared: a run has no ground_truth.json (val.py writes it with --save-json)"
    if any(truth != truths[0] for truth in truths[1:]):
        return "not compared: the runs were not evaluated on the same images and labels"
    limits = {run.max_det for run in runs}
    if len(limits) > 1:
        return f"not compared: the runs were evaluated with different max_det ({', '.join(map(str, sorted(limits)))})"
    if all(annotation.get("iscrowd") for annotation in truths[0].get("annotations") or ()):
        return "not compared: the images have no objects"
    return compare(truths[0], *sides, samples=samples, max_det=limits.pop())


if __name__ == "__main__":
    run_program(main)

"""Command: everything that is wrong with a data set, with file and line: `python -m data.doctor DATA`.

In addition to what every run reports (see `data.read.read_split`), it decodes every image, compares the pictures of all
splits, and lists objects and labels that look wrong. `--predictions` adds what a model disputes.
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
import itertools
import logging
from collections import Counter
from pathlib import Path

from data.config import SPLITS, DataConfig, load_data_config, write_data_yaml
from data.convert import write_class_folders, write_dataset
from data.doctor.examine import examine
from data.doctor.predictions import disputes
from data.doctor.report import Report, count, json_lines, text_lines
from data.formats import coco
from data.formats.rows import CLIPPED, IMAGE_LEFT_OUT, NOTES, REPAIRED, SUMMED
from data.read import label_format
from utils.arguments import Parser
from utils.config import ConfigError
from utils.files import write_atomically
from utils.log import say, say_error, setup_logging
from utils.structures import LabelledImages

EXIT_STATUS = {"clean": 0, "warnings": 1, "errors": 2}


def fix(config: DataConfig, splits: dict[str, LabelledImages], folder: Path) -> list[str]:
    """Write the data set without what is wrong into a new folder, in its own label format, or else as COCO JSON.

    Boxes are clipped or left out as the findings say, and so are images that cannot be used. What only looks wrong
    (tiny boxes, duplicates, the same picture twice) stays: a person has to look at it.
    """
    if not splits:
        raise ConfigError(f"{config.source}: no split can be used, so there is nothing to write")
    if next(iter(splits.values())).task == "classify":
        return write_class_folders(splits, folder)
    form = label_format(config, next(iter(splits)))
    form = form if form in ("coco", "yolo", "voc") else "coco"
    lines = write_dataset({split: coco.mend(data) for split, data in splits.items()}, folder, form)
    return [*lines, *_written(splits, folder, form)]


def _written(splits: dict[str, LabelledImages], folder: Path, form: str) -> list[str]:
    facts = {split: count(data) for split, data in splits.items()}
    lines = [f"Wrote {split}: {each.images} images, {each.objects} objects" for split, each in facts.items()]
    return [*lines, f"Wrote {folder / 'data.yaml'}, labels in {form.upper()} form"]


def what_changed(report: Report) -> list[str]:
    """What was repaired, what was left out and what stays as it is, by kind, a line each."""
    groups: dict[str, Counter[str]] = {
        "Repaired": Counter(),
        "Left out": Counter(),
        "Kept, for you to look at": Counter(),
    }
    for each in report.grouped():
        title = f"{each.title} ({each.action})" if each.action in (IMAGE_LEFT_OUT,) else each.title
        if each.action in (REPAIRED, CLIPPED):
            groups["Repaired"][title] += len(each.findings)
        elif each.action in NOTES:
            groups["Kept, for you to look at"][title] += len(each.findings)
        else:
            groups["Left out"][title] += len(each.findings)
    actions = Counter({action: number for action, number in report.findings.actions.items() if action not in NOTES})
    told = ", ".join(f"{number} {SUMMED.get(action, action)}" for action, number in actions.most_common())
    lines = [f"Findings: {told or 'none'}"]
    for name, counts in groups.items():
        text = "; ".join(f"{number} x {title}" for title, number in counts.most_common())
        lines.append(f"{name}: {text or 'nothing'}")
    return lines


def add_disputes(report: Report, splits: dict[str, LabelledImages], split: str, file: Path) -> None:
    """Add what the predictions in a file dispute about a split."""
    if split not in splits:
        raise ConfigError(f"--predictions: there is no usable split '{split}'; name another one with --split")
    for suspect in disputes(splits[split], file):
        report.add_suspect(split, suspect)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0 for a clean data set, 1 for warnings, 2 for errors."""
    parser = Parser(prog="python -m data.doctor", description="Say what is wrong with a data set.")
    parser.add_argument("data", metavar="DATA", help="data YAML: a path, or a name in cfg/data/; or a folder")
    parser.add_argument("--all", action="store_true", help="a line for each finding, not for each kind of them")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write a report as one HTML file")
    parser.add_argument("--fix", metavar="FOLDER", type=Path, help="also write a cleaned copy into a new folder")
    parser.add_argument("--write", action="store_true", help="save what a folder without a data YAML holds as its YAML")
    parser.add_argument(
        "--predictions", metavar="FILE", type=Path, help="predictions.json of val.py: what they dispute"
    )
    parser.add_argument("--split", choices=SPLITS, default="val", help="split that they are for (default: val)")
    parser.add_image_size(default=640)
    args = parser.parse_args(argv)
    level = logging.getLogger().level
    setup_logging(rank=1 if args.json else 0)  # nothing but JSON on standard output
    try:
        report, lines = run(args)
    except (ValueError, OSError) as error:
        say_error(error)
        return EXIT_STATUS["errors"]
    finally:
        if args.json:  # who called this goes on to log
            logging.getLogger().setLevel(level)
    for line in lines:
        say(line, error=args.json)
    return EXIT_STATUS[report.status]


def run(args: argparse.Namespace) -> tuple[Report, list[str]]:
    """Examine as the command line says and print the report; returns it, and what else was done."""
    config = load_data_config(args.data)
    written = [f"Written: {write_data_yaml(config)}"] if args.write else []
    report, splits = examine(config, image_size=args.img_size, truth="whole" if args.fix else "none")
    if args.predictions is not None:
        add_disputes(report, splits, args.split, args.predictions)
    lines = json_lines(report) if args.json else text_lines(report, everything=args.all)
    while part := list(itertools.islice(lines, 1000)):
        say("\n".join(part))
    if args.html is not None:
        from data.doctor.page import to_html  # draws

        args.html.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.html, to_html(report))
        written.append(f"Written: {args.html}")
    if args.fix is not None:
        written += [*fix(config, splits, args.fix), *what_changed(report)]
    return report, written


if __name__ == "__main__":
    run_program(main)

"""Command: train, val and test of a data set that has none, `python -m data.split SOURCE OUT`.

It writes lists of images (COCO JSON files where the source is COCO JSON) and a data YAML; no picture is copied. Classes
have their share in every split; pictures that look alike, and those of a group, stay in one.
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.classes import same_classes
from data.config import SPLITS, DataConfig, load_data_config
from data.convert import check_empty
from data.formats.rows import summarize
from data.read import guess_task, label_format, read_split
from data.similar import DUPLICATE, SCENE, alike, groups, small_pictures
from data.split_files import ONE_FILE, write_splits
from data.stratify import stratify
from utils.arguments import Parser, seed, share
from utils.config import ConfigError
from utils.log import say, say_error, setup_logging
from utils.structures import LabelledImages
from utils.text import listed

FOLDER, SCENES = "folder", "scene"
"""Words for --group that are no regular expressions."""


@dataclass(frozen=True, eq=False)
class Pool:
    """All images of a source that are to be split anew.

    Args:
        parts: split of the source -> its images, each image once, all with the classes of the first part.
        paths: all images, those of one part after another.
        owners, labels: (M,) int64, position in `paths` and class of each object; crowd regions are none.
    """

    parts: dict[str, LabelledImages]
    paths: list[Path]
    owners: np.ndarray
    labels: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        return next(iter(self.parts.values())).names


def read_pool(config: DataConfig) -> Pool:
    """The images of all splits of a source.

    Raises:
        ConfigError: a split cannot be read, or two of them have different classes.
    """
    task = guess_task(config)
    given = [split for split in SPLITS if getattr(config, split) is not None]
    whole = task == "detect" and label_format(config, given[0]) in ONE_FILE
    parts: dict[str, LabelledImages] = {}
    seen: set[Path] = set()
    for split in given:
        data = read_split(config, split, task=task, truth="file" if whole else "none")
        data = same_classes(next(iter(parts.values()), data), data)
        if data.problems:
            say(f"{split}: {summarize(data.problems)}")
        paths = data.samples.paths()
        fresh = [index for index, path in enumerate(paths) if path not in seen]
        seen.update(paths)
        if len(fresh) < len(data):
            say(f"{split}: {len(data) - len(fresh)} images are in another split already, and taken once")
            data = replace(data, samples=data.samples.take(np.array(fresh, np.int64)))
        parts[split] = data
    samples = [data.samples for data in parts.values()]
    starts = np.cumsum([0, *map(len, samples)])
    owners = np.concatenate([each.image_index() + start for each, start in zip(samples, starts, strict=False)])
    objects = ~np.concatenate([each.crowd for each in samples])
    labels = np.concatenate([each.labels for each in samples])
    return Pool(parts, [path for each in samples for path in each.paths()], owners[objects], labels[objects])


def group_images(paths: Sequence[Path], root: Path, group: str | None) -> tuple[np.ndarray, str]:
    """(N,) int64, equal for images that must stay in one split, and how that was found.

    Args:
        root: what the names are relative to that a regular expression searches.
        group: a regular expression (its first bracket, or all that it matches, is the group), 'folder', 'scene', or
            None for pictures that look alike only.
    Raises:
        ConfigError: no regular expression, or one that no name has.
    """
    small = small_pictures(paths, "Comparing pictures")
    pairs = [alike(small, SCENE if group == SCENES else DUPLICATE)]
    told = f"{len(pairs[0])} pairs of pictures {'of one scene' if group == SCENES else 'are nearly the same'}"
    if group not in (None, SCENES):
        keys = [_key(path, root, _expression(str(group))) for path in paths]
        first: dict[str, int] = {}
        own = [(first.setdefault(key, index), index) for index, key in enumerate(keys) if key is not None]
        if not own:
            raise ConfigError(f"--group {group}: matches none of the {len(paths)} names, such as {paths[0].name}")
        pairs.append(np.array(own, np.int64).reshape(-1, 2))
        told = f"--group names {len(first)} groups ({len(paths) - len(own)} images are in none); {told}"
    return groups(len(paths), np.concatenate(pairs)), told


def _expression(group: str) -> re.Pattern[str] | None:
    """The regular expression of --group; None for folders."""
    try:
        return None if group == FOLDER else re.compile(group)
    except re.error as error:
        raise ConfigError(f"--group {group}: no regular expression ({error}); '[0-9]+' matches a number") from None


def _key(path: Path, root: Path, expression: re.Pattern[str] | None) -> str | None:
    name = path.relative_to(root) if path.is_relative_to(root) else path
    if expression is None:
        return str(path.parent)
    match = expression.search(name.as_posix())
    return match and (match.group(1) if expression.groups else match.group(0))


def deal(pool: Pool, grouping: np.ndarray, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """The positions of each split in the images of the pool, ascending.

    Raises:
        ConfigError: a split would be empty.
    """
    wanted = {split: part for split, part in shares.items() if part > 0}
    chosen = stratify((pool.owners, pool.labels), grouping, len(pool.names), list(wanted.values()), seed)
    splits = {split: np.flatnonzero(chosen == number) for number, split in enumerate(wanted)}
    empty = [split for split, positions in splits.items() if not len(positions)]
    if empty:
        count = len(np.unique(grouping))
        raise ConfigError(
            f"{listed(empty)} would be empty: the {len(grouping)} images are in {count} "
            f"group{'s' * (count > 1)} that stay together; name smaller groups with --group, or add other images"
        )
    return splits


def table(pool: Pool, splits: Mapping[str, np.ndarray]) -> list[str]:
    """What each split holds, a line each, and the classes that one has no object of."""
    place = np.zeros(len(pool.paths), np.int64)
    for number, positions in enumerate(splits.values()):
        place[positions] = number
    cells = place[pool.owners] * len(pool.names) + pool.labels
    counts = np.bincount(cells, minlength=len(splits) * len(pool.names)).reshape(len(splits), -1)
    lines = []
    for (split, positions), own in zip(splits.items(), counts, strict=True):
        part = len(positions) / len(pool.paths)
        lines.append(f"{split}: {len(positions)} images ({part:.1%}), {own.sum()} objects")
    for split, own in zip(splits, counts, strict=True):
        missing = [pool.names[label] for label in np.flatnonzero((own == 0) & counts.any(axis=0)).tolist()]
        if missing:
            lines.append(f"Note: {split} has no object of {listed(missing, 300)}: too few groups show them")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = Parser(prog="python -m data.split", description="Split a data set; no picture is copied.")
    parser.add_argument("source", metavar="SOURCE", help="data YAML, a name in cfg/data/, or a folder")
    parser.add_argument("folder", metavar="OUT", type=Path, help="new folder for the lists and the data.yaml")
    parser.add_argument("--val", type=share, default=0.2, help="part for val (default: 0.2)")
    parser.add_argument("--test", type=share, default=0.0, help="part for test (default: 0)")
    parser.add_argument(
        "--group",
        metavar="REGEX",
        help="images with the same match in their names stay together; 'folder': those of a folder; 'scene': those of "
        "one scene",
    )
    parser.add_argument("--seed", type=seed, default=0, help="another one deals images otherwise (default: 0)")
    args = parser.parse_args(argv)
    setup_logging()
    try:
        for line in run(args):
            say(line)
    except (ValueError, OSError) as error:
        say_error(error)
        return 2
    return 0


def run(args: argparse.Namespace) -> list[str]:
    """Split as the command line says; returns what was done, one line each."""
    shares = {"train": round(1 - args.val - args.test, 9), "val": args.val, "test": args.test}
    if shares["train"] <= 0 or args.val + args.test <= 0:
        raise ConfigError(
            f"--val {args.val:g} and --test {args.test:g} leave {max(shares['train'], 0):g} for train; expected parts "
            "that add up to more than 0 and less than 1"
        )
    check_empty(args.folder)
    config = load_data_config(args.source)
    pool = read_pool(config)
    grouping, told = group_images(pool.paths, config.path, args.group)
    splits = deal(pool, grouping, shares, args.seed)
    lines = [f"Groups: {told}; {len(np.unique(grouping))} groups in all", *table(pool, splits)]
    file = write_splits(config, pool.parts, splits, args.folder)
    lines.append(f"Written: {file}; check it with: python -m data.doctor {file}")
    return lines


if __name__ == "__main__":
    run_program(main)

"""Command: a data set from one label format into another, `python -m data.convert SRC DST --to coco|yolo|voc`.

Classes, their ids and boxes survive every conversion; what a format cannot hold is counted and reported.
`--to imagefolder` crops the objects, for training a classifier.
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from data.classes import same_classes
from data.config import SPLITS, DataConfig, load_data_config
from data.formats import coco, imagefolder, voc, yolo
from data.formats.assemble import probe_sizes, size_mismatch
from data.formats.holdable import check_names
from data.formats.label_places import label_name
from data.formats.rows import LEFT_OUT, summarize
from data.read import count_objects, read_split
from utils.arguments import Parser
from utils.config import ConfigError, dump_yaml
from utils.log import say, say_error, setup_logging, tracked
from utils.structures import LabelledImages, LabelProblem, Sample, Samples

FORMATS = ("coco", "yolo", "voc")
ROW_KEYS = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd"})
IMAGE_KEYS = frozenset({"id", "file_name", "width", "height"})
TOP_KEYS = frozenset({"images", "annotations", "categories"})


def read_dataset(config: DataConfig) -> dict[str, LabelledImages]:
    """All splits of a data set, without images that are not of the size that the labels are for.

    Raises:
        ConfigError: a split cannot be read, or two of them have different classes.
    """
    splits = {split: read_split(config, split) for split in SPLITS if getattr(config, split) is not None}
    splits = {split: _of_their_size(data, config) for split, data in splits.items()}
    first = next(iter(splits.values()))
    return {split: same_classes(first, data) for split, data in splits.items()}


def _of_their_size(data: LabelledImages, config: DataConfig) -> LabelledImages:
    """A split without images that have another size than a COCO file says: boxes as fractions would be wrong."""
    sizes = probe_sizes([sample.path for sample in data.samples])
    problems = [
        LabelProblem(str(sample.path), size if isinstance(size, str) else size_mismatch(sample, size), LEFT_OUT)
        for sample, size in zip(data.samples, sizes, strict=True)
        if size != (sample.height, sample.width)
    ]
    if not problems:
        return data
    if config.labels == "error" or len(problems) == len(data.samples):
        raise ConfigError(*summarize(problems).split("\n"), "Correct width and height, or the images")
    wrong = {problem.where for problem in problems}
    samples = Samples.of(sample for sample in data.samples if str(sample.path) not in wrong)
    return replace(data, samples=samples, problems=(*data.problems, *problems))


def write_dataset(splits: Mapping[str, LabelledImages], folder: Path, form: str, *, copy: bool = False) -> list[str]:
    """Write a data set with its images and a data.yaml into an empty folder.

    Images keep their bytes: they are hard-linked if the disk allows it, otherwise copied. coco goes to annotations/ and
    images/, yolo to labels/, images/ and one list a split, voc to Annotations/, JPEGImages/ and ImageSets/Main/.

    Args:
        splits: split -> its images, all with the same classes.
        form: 'coco', 'yolo' or 'voc'.
        copy: copy images even where they could be linked.
    Returns:
        what was done and what was lost, one line each.
    Raises:
        ConfigError: the folder exists and is not empty, or the format cannot hold a name.
    """
    check_empty(folder)
    names, renamed = _file_names(splits)
    check_names(form, itertools.chain(*names.values()), next(iter(splits.values())).names)
    images = folder / ("JPEGImages" if form == "voc" else "images")
    placed = {
        split: [replace(sample, path=images / name) for sample, name in zip(data.samples, names[split], strict=True)]
        for split, data in splits.items()
    }
    pairs = [pair for split, data in splits.items() for pair in zip(data.samples, placed[split], strict=True)]
    lines = [_bring_images(pairs, copy=copy)]
    if renamed:
        lines.append(f"{renamed} images have a new name, because another one of the set has theirs")
    values = {split: _write_split(folder, images, split, splits[split], placed[split], form) for split in splits}
    first = next(iter(splits.values()))
    extra: dict[str, Any] = {"images": "images"} if form == "coco" else {}
    if form != "coco" and first.category_ids != tuple(range(1, len(first.names) + 1)):
        extra["category_ids"] = list(first.category_ids)
    extra |= {"tiling": asdict(first.tiling)} if first.tiling else {}
    content = {"path": ".", **values, **extra, "nc": len(first.names), "names": list(first.names)}
    (folder / "data.yaml").write_text(dump_yaml(content), encoding="utf-8")
    return lines + [f"Lost: {line}" for line in _losses(splits, form)]


def write_class_folders(splits: Mapping[str, LabelledImages], folder: Path) -> list[str]:
    """Crop every object into SPLIT/CLASS/ of an empty folder, and write a data.yaml for a classifier.

    Returns:
        what was done, one line a split.
    Raises:
        ConfigError: the folder exists and is not empty.
    """
    check_empty(folder)
    lines, names = [], {}
    for split, data in splits.items():
        written = imagefolder.write(data, folder / split)
        names = written.folders
        small = f"; left out {written.small} under {imagefolder.LEAST} pixels" if written.small else ""
        crowd = f"; left out {written.crowd} crowd regions" if written.crowd else ""
        lines.append(f"{split}: {written.images} images cut out{small}{crowd}")
    plain = all(folder == name for folder, name in names.items())
    content = {"path": ".", **{split: split for split in splits}, "names": list(names) if plain else names}
    (folder / "data.yaml").write_text(dump_yaml(content), encoding="utf-8")
    return lines


def check_empty(folder: Path) -> None:
    """Refuse to write into a folder that holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not empty; name a new folder")


def _write_split(
    folder: Path, images: Path, split: str, data: LabelledImages, samples: Sequence[Sample], form: str
) -> str:
    """Write the labels of one split; returns the value of its key in data.yaml."""
    names = [sample.path.relative_to(images).as_posix() for sample in samples]
    if form == "coco":
        target = folder / "annotations" / f"instances_{split}.json"
        coco.write(data, target, names)
    elif form == "yolo":
        yolo.write(samples, images, folder / yolo.FOLDER)
        target = folder / f"{split}.txt"
        target.write_text("".join(f"./images/{name}\n" for name in names), encoding="utf-8")
    else:
        voc.write(samples, data.names, images, folder / voc.FOLDER)
        target = folder / "ImageSets" / "Main" / f"{split}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{label_name(name, '')}\n" for name in names), encoding="utf-8")
    return target.relative_to(folder).as_posix()


def _file_names(splits: Mapping[str, LabelledImages]) -> tuple[dict[str, list[str]], int]:
    """A name for each image, unique even without its suffix (label files share it), and how many images are renamed."""
    taken: set[str] = set()
    names: dict[str, list[str]] = {split: [] for split in splits}
    renamed = 0
    for split, data in splits.items():
        written = {image["id"]: image["file_name"] for image in data.ground_truth["images"]}
        for sample in data.samples:
            own = written.get(sample.image_id, sample.path.name)
            name = PurePosixPath(own if sample.path.as_posix().endswith(f"/{own}") else own.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts:
                name = PurePosixPath(sample.path.name)
            free, count = name.as_posix(), 1
            while label_name(free, "").casefold() in taken:
                free = f"{split}{count if count > 1 else ''}/{name}"
                count += 1
            taken.add(label_name(free, "").casefold())
            renamed += free != name.as_posix()
            names[split].append(free)
    return names, renamed


def _bring_images(pairs: Sequence[tuple[Sample, Sample]], *, copy: bool) -> str:
    """Link or copy the image of each first sample to the path of the second; returns what was done."""
    linked = 0
    for old, new in tracked(pairs, len(pairs), "Bringing images"):
        new.path.parent.mkdir(parents=True, exist_ok=True)
        if not copy and _link(old.path, new.path):
            linked += 1
        else:
            shutil.copyfile(old.path, new.path)
    parts = [(linked, "hard-linked (one file under two names: do not edit in place)"), (len(pairs) - linked, "copied")]
    return "Images: " + ", ".join(f"{count} {how}" for count, how in parts if count)


def _link(old: Path, new: Path) -> bool:
    try:
        os.link(old.resolve(), new)
    except OSError:  # another disk, or a file system without hard links
        return False
    return True


def _losses(splits: Mapping[str, LabelledImages], form: str) -> list[str]:
    """What the format cannot hold of the ground truth, one line each."""
    if form == "coco":
        return []
    crowd = sum(int(data.samples.crowd.sum()) for data in splits.values())
    numbered = image_ids = areas = 0
    keys: Counter[str] = Counter()
    for data in splits.values():
        truth = data.ground_truth
        image_ids += sum(sample.image_id != number for number, sample in enumerate(data.samples, start=1))
        numbered += sum(entry["id"] != number for number, entry in enumerate(truth["annotations"], start=1))
        areas += sum(abs(entry["area"] - entry["bbox"][2] * entry["bbox"][3]) > 1e-6 for entry in truth["annotations"])
        keys.update(f"'{key}' of annotations" for entry in truth["annotations"] for key in entry.keys() - ROW_KEYS)
        keys.update(f"'{key}' of images" for entry in truth["images"] for key in entry.keys() - IMAGE_KEYS)
        keys.update(f"'{key}' of a file" for key in truth.keys() - TOP_KEYS)
    name = form.upper()
    losses = [
        (crowd if form == "yolo" else 0, "crowd regions, left out: a row has no flag for them"),
        (image_ids, f"image ids: {name} numbers images in the order of the split"),
        (numbered, f"annotation ids: {name} has none"),
        (areas, "areas of masks: width times height is taken, so small, medium and large may change"),
        *((count, key) for key, count in sorted(keys.items())),
    ]
    return [f"{count} {loss}" for count, loss in losses if count]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = Parser(prog="python -m data.convert", description="Write a data set in another label format.")
    parser.add_argument("source", metavar="SRC", help="data YAML: a path, or a name in cfg/data/")
    parser.add_argument("folder", metavar="DST", type=Path, help="new folder for the converted set")
    parser.add_argument("--to", required=True, choices=(*FORMATS, "imagefolder"), help="label format to write")
    parser.add_argument("--copy", action="store_true", help="copy images instead of hard-linking them")
    args = parser.parse_args(argv)
    setup_logging()
    try:
        splits = read_dataset(load_data_config(args.source))
        if args.to == "imagefolder":
            lines = write_class_folders(splits, args.folder)
        else:
            lines = write_dataset(splits, args.folder, args.to, copy=args.copy)
    except (ValueError, OSError) as error:
        say_error(error)
        return 2
    for split, data in splits.items():
        say(f"{split}: {len(data)} images, {count_objects(data, 'objects')}, {len(data.names)} classes")
        if data.problems:
            say(summarize(data.problems))
    say("\n".join(lines))
    say(f"Written: {args.folder / 'data.yaml'}")
    return 0


if __name__ == "__main__":
    run_program(main)

"""COCO JSON: one file a split, with images, annotations and categories; the ids stay inside this file."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.formats.assemble import to_labelled_images
from data.formats.coco_annotations import Annotations
from data.formats.coco_compact import column, load_compact
from data.formats.image_files import find_images
from data.formats.json_file import Lines, as_id, collector_paused, load_coco
from data.formats.rows import BACKGROUND, MATCHED, NO_CLASS, ImageTable, Problems
from utils.boxes import clip, xywh_to_xyxy, xyxy_to_xywh
from utils.config import ConfigError
from utils.structures import LabelledImages, Samples
from utils.text import listed, shown, shown_json, to_json

LARGEST = 1_000_000
"""Pixels a side that a size in a file may state; more is not believed, and the image itself is asked."""


@collector_paused()
def read(
    file: Path,
    root: Path,
    *,
    images: Path | None = None,
    names: Sequence[str] | None = None,
    truth: Literal["whole", "file", "boxes", "none"] = "whole",
    problems: Problems | None = None,
) -> LabelledImages:
    """A split in COCO form; class indices follow the ascending category ids, or `names` where they are the same.

    `ground_truth` is the content of the file, for exactly the images of the samples. It is changed only where
    pycocotools could not read it: missing area, iscrowd and ids are added, unusable entries dropped. Boxes that are
    clipped or dropped in the samples are unchanged.

    Args:
        root: where folders of images are looked for if `images` is None.
        images: the folder that file_name is relative to.
        names: names that replace the file's own; as many as it has categories.
        truth: whether `ground_truth` is all of this, all but the outlines of annotations with a bbox, or nothing, for
            which the memory stays small. It does with 'file' too: `ground_truth` is then that of the whole file, images
            that are left out with it, and its annotations are read from there by `entries_at`.
        problems: where to report; a new list when None.
    Raises:
        ConfigError: no COCO JSON, no categories or no images, or names that do not fit the categories.
    """
    problems = problems or Problems()
    content, lines = _load(file, truth)
    category_ids, own_names = _categories(file, content, problems)
    if len(own_names) != len(names or ()):
        category_ids, own_names = _without_group(file, content, (category_ids, own_names), problems)
    if names is not None and list(names) != own_names and sorted(names) == sorted(own_names):
        problems.add(file, "the names in the data YAML stand in another order than the categories", MATCHED)
        category_ids, own_names = [category_ids[own_names.index(name)] for name in names], list(names)
    names = own_names if names is None else _check_names(file, names, own_names)
    entries = _read_images(content["images"], lines, problems)
    given = content.get("annotations")
    source = Annotations(given or [], entries.number, category_ids, lines, problems)
    if given is None:  # as in COCO's image_info_test
        problems.add(file, "the file has no annotations", BACKGROUND)
    table = _find_images(file, root, images, entries, source, problems)
    annotations = source.complete(renumbered=entries.changed)
    rows = source.rows({number: position for position, number in enumerate(table.ids)})
    if truth == "none":
        return to_labelled_images(table, rows, names, category_ids, problems)
    if truth != "file":
        annotations = list(annotations) if annotations is not given else given
    if entries.changed or annotations is not given:
        categories = [{**entry, "id": as_id(entry["id"])} for entry in content["categories"]]
        content = {**content, "images": entries.images, "annotations": annotations, "categories": categories}
    data = to_labelled_images(table, rows, names, category_ids, problems)
    return replace(data, ground_truth=content if truth == "file" else _of_samples(content, data.samples))


def _load(file: Path, truth: Literal["whole", "file", "boxes", "none"]) -> tuple[dict[str, Any], Lines]:
    """The content of a file and its lines; with the numbers of its annotations alone where nobody needs the rest."""
    if truth in ("file", "none") and (compact := load_compact(file, whole=truth == "file")) is not None:
        return compact.content, Lines(file, compact.lines)
    return load_coco(file, outlines=truth != "boxes"), Lines(file)


def write(data: LabelledImages, file: Path, file_names: Sequence[str]) -> None:
    """Write a split as COCO JSON: the images of `data.samples` with all that `data.ground_truth` says of them.

    Args:
        file_names: one for each sample, relative to the folder of images.
    """
    samples = {sample.image_id: (sample, name) for sample, name in zip(data.samples, file_names, strict=True)}
    truth = data.ground_truth
    images = []
    for entry in truth["images"]:
        if entry["id"] in samples:
            sample, name = samples[entry["id"]]
            images.append({**entry, "file_name": name, "height": sample.height, "width": sample.width})
    annotations = [entry for entry in truth["annotations"] if entry["image_id"] in samples]
    write_content({**truth, "images": images, "annotations": annotations}, file)


def write_content(content: Mapping[str, Any], file: Path) -> None:
    """Write a COCO dict as it is; iterators in it are lists, of which few entries are in memory at a time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as opened:
        for number, (key, value) in enumerate(content.items()):
            opened.write(f"{', ' if number else '{'}{to_json(key)}: ")
            if isinstance(value, Iterator | list):
                opened.writelines(_list_in_parts(iter(value)))
            else:
                opened.write(to_json(value, allow_nan=True))
        opened.write("}\n" if content else "{}\n")


def _list_in_parts(entries: Iterator[Any]) -> Iterator[str]:
    """A list as JSON, a few entries at a time."""
    yield "["
    between = ""
    while part := list(itertools.islice(entries, 1000)):
        yield between + to_json(part, allow_nan=True)[1:-1]
        between = ", "
    yield "]"


def _of_samples(content: dict[str, Any], samples: Samples) -> dict[str, Any]:
    """A COCO dict without the images that are not used: what is measured on it would count their objects as missed."""
    if len(samples) == len(content["images"]):
        return content
    used = set(samples.image_ids.tolist())
    return {
        **content,
        "images": [entry for entry in content["images"] if entry["id"] in used],
        "annotations": [entry for entry in content.get("annotations") or () if entry["image_id"] in used],
    }


def mend(data: LabelledImages) -> LabelledImages:
    """`data` with a ground truth of exactly the objects in its samples: dropped and clipped as they are."""
    samples = {sample.image_id: sample for sample in data.samples}
    label_of = {number: label for label, number in enumerate(data.category_ids)}
    left = {
        number: Counter(map(_key, sample.boxes.tolist(), sample.labels.tolist(), sample.crowd.tolist()))
        for number, sample in samples.items()
    }
    annotations = []
    for entry in data.ground_truth["annotations"]:
        sample = samples.get(entry["image_id"])
        if sample is None:
            continue
        raw = xywh_to_xyxy(np.array(entry["bbox"], np.float64))
        box = clip(raw, sample.height, sample.width)
        key = _key(box.tolist(), label_of[entry["category_id"]], bool(entry["iscrowd"]))
        if not left[entry["image_id"]][key]:
            continue
        left[entry["image_id"]][key] -= 1
        if not np.array_equal(raw, box):
            bbox = xyxy_to_xywh(box).tolist()
            entry = {**entry, "bbox": bbox, "area": min(entry["area"], bbox[2] * bbox[3])}
        annotations.append(entry)
    images = [entry for entry in data.ground_truth["images"] if entry["id"] in samples]
    return replace(data, ground_truth={**data.ground_truth, "images": images, "annotations": annotations})


def _key(box: list[float], label: int, crowd: bool) -> tuple[float | int, ...]:
    return (*box, label, crowd)


def _categories(file: Path, content: dict[str, Any], problems: Problems) -> tuple[list[int], list[str]]:
    """Ids in ascending order and their names; a repeated name gets its id appended."""
    categories = content.get("categories")
    if not isinstance(categories, list) or not categories:
        raise ConfigError(
            f"{file}: expected a list 'categories' with at least one entry, found {shown_json(categories)}"
        )
    names: dict[int, str] = {}
    for entry in categories:
        number = as_id(entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(number, int) or not isinstance(entry.get("name"), str):
            raise ConfigError(f"{file}: category {shown_json(entry)}: expected a whole number 'id' and a text 'name'")
        if number in names:
            raise ConfigError(
                f"{file}: category id {number} stands twice ({shown(names[number])} and {shown(entry['name'])})"
            )
        names[number] = entry["name"]
    ids = sorted(names)
    seen: set[str] = set()
    for number in ids:
        name = names[number] or f"category {number}"
        while name in seen or (name != names[number] and name in names.values()):
            name = f"{name} ({number})"
        if not names[number]:
            problems.add(file, f"category {number} has an empty name", f"it is called {shown(name)}")
        elif name != names[number]:
            problems.add(
                file, f"two categories are named {shown(names[number])}", f"the second is called {shown(name)}"
            )
        names[number] = name
        seen.add(name)
    return ids, [names[number] for number in ids]


def _without_group(
    file: Path, content: dict[str, Any], categories: tuple[list[int], list[str]], problems: Problems
) -> tuple[list[int], list[str]]:
    """The ids and names without the category that only groups the others: they name it, and no annotation has it."""
    ids, names = categories
    groups = {entry.get("supercategory") for entry in content["categories"] if as_id(entry["id"]) != ids[0]}
    if len(ids) < 2 or groups != {names[0]}:
        return categories
    if any(as_id(number) == ids[0] for number in column(content.get("annotations") or (), "category_id")):
        return categories
    what = f"category {ids[0]}, {shown(names[0])}, is the group of all others, and no box has it"
    problems.add(file, what, NO_CLASS)
    return ids[1:], names[1:]


def _check_names(file: Path, names: Sequence[str], own: list[str]) -> list[str]:
    if len(names) != len(own):
        raise ConfigError(
            f"{file}: {len(own)} categories, but {len(names)} names in the data YAML; "
            "leave 'names' out there to take the names from the JSON"
        )
    return list(names)


@dataclass(frozen=True, eq=False)
class _Entries:
    """The images of a file with distinct ids.

    Args:
        images: their entries, with whole numbers as ids.
        number: id as written (as `as_id` reads it) -> id in `images`.
        source: position of each in the file.
        lines: of the file.
        changed: whether `images` differs from the list in the file.
    """

    images: list[dict[str, Any]]
    number: dict[int | str, int]
    source: list[int]
    lines: Lines
    changed: bool

    def where(self, index: int) -> str:
        """File and line of an entry of `images`, for messages."""
        return self.lines.where("images", self.source[index], self.images[index])


def _read_images(listed: list[Any], lines: Lines, problems: Problems) -> _Entries:
    keys: dict[int | str, int] = {}
    for index, entry in enumerate(listed):
        key = as_id(entry.get("id")) if isinstance(entry, dict) else None
        if key is None or not isinstance(entry.get("file_name"), str):
            where = lines.where("images", index, entry)
            problems.add(where, f"expected an 'id' and a 'file_name', found {shown_json(entry)}")
        elif key in keys:
            first = listed[keys[key]]["file_name"]
            problems.add(lines.where("images", index, entry), f"the image {first} has this id already")
        else:
            keys[key] = index
    number: dict[int | str, int] = {key: key for key in keys if isinstance(key, int)}
    odd = next((key for key in keys if not isinstance(key, int)), None)
    if odd is not None:
        number = {key: position for position, key in enumerate(keys, start=1)}
        where = lines.where("images", keys[odd], listed[keys[odd]])
        odd_ids = f"image ids such as {shown(odd)} are no whole numbers"
        problems.add(where, odd_ids, "images are numbered 1, 2, ... instead")
    images = [listed[index] for index in keys.values()]
    changed = len(images) != len(listed) or any(type(entry["id"]) is not int for entry in images)
    if changed:
        images = [{**entry, "id": number[key]} for entry, key in zip(images, keys, strict=True)]
    return _Entries(images, number, list(keys.values()), lines, changed)


def _find_images(
    file: Path, root: Path, folder: Path | None, entries: _Entries, source: Annotations, problems: Problems
) -> ImageTable:
    """The images on disk; one that is there twice is left out where it is not clear what its objects are."""
    if not entries.images:
        raise ConfigError(f"{file}: no images; expected entries with 'id' and 'file_name' in the list 'images'")
    images = find_images([entry["file_name"] for entry in entries.images], file, root, folder, problems)
    found: dict[Path, list[int]] = {}
    for index, known in enumerate(images.files):
        why = f"no such image: {images.looked_for[index]}" if known is None else images.folders.why_unusable(known)
        if known is None or why is not None:
            problems.add(entries.where(index), str(why))
        else:
            found.setdefault(known.resolve() if ".." in str(known) else known, []).append(index)
    twins = [each for each in found.values() if len(each) > 1]
    contents = source.contents([entries.images[index]["id"] for each in twins for index in each])
    others = {index for each in twins for index in _other_twins(each, entries, contents, problems)}
    used = [
        (path, entries.images[index])
        for index, path in sorted((index, path) for path, each in found.items() for index in each)
        if index not in others
    ]
    return ImageTable(
        [path for path, _ in used], [entry["id"] for _, entry in used], [_size(entry) for _, entry in used]
    )


def _other_twins(
    twins: list[int], entries: _Entries, contents: Mapping[int, Counter[tuple[object, ...]]], problems: Problems
) -> list[int]:
    """Of the entries of one image file those that are left out: all, unless one has all its annotations."""
    ids = [entries.images[index]["id"] for index in twins]
    kept = next((number for number in ids if contents[number]), ids[0])
    if any(contents[number] and contents[number] != contents[kept] for number in ids):
        problems.lost_file(
            entries.where(twins[0]),
            f"one image file under {len(ids)} ids, {listed(ids, 100)}, with other annotations each; give all of them "
            "to one entry and take the others out",
        )
        return twins
    others = [index for index, number in zip(twins, ids, strict=True) if number != kept]
    for index in others:
        same = "the same annotations" if contents[entries.images[index]["id"]] else "no annotations"
        problems.add(entries.where(index), f"its file is that of image {kept} too, and it has {same}")
    return others


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    height, width = as_id(entry.get("height")), as_id(entry.get("width"))
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 and max(height, width) <= LARGEST:
        return height, width
    return None  # the file's own size is taken, then

"""Which label file belongs to which image, decided for each image by the files that exist."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from data.formats.listing import IMAGE_FOLDERS, Folders, is_image
from data.formats.rows import KEPT, LEFT_OUT, Problems
from utils.files import open_regular, read_regular
from utils.structures import LabelledImages, LabelProblem

ORPHAN = "a label file without an image"
NOT_LABELS = ("classes.txt", "labels.txt")
"""Written by labelling tools beside their rows."""

COMPARED = 1000
"""Images, spread over the set, whose label files in two formats are compared."""


@dataclass
class LabelPlaces:
    """The label files of the images of a split.

    Args:
        images: those whose labels are known: with one label file of their own, or with none.
        files: image -> its label file.
        folders: all folders that may hold label files, if they exist; not those of the images.
    """

    images: list[Path]
    files: dict[Path, Path] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)


def label_name(image: str, suffix: str) -> str:
    """The name of the label file of an image."""
    return os.path.splitext(image)[0] + suffix


def find_labels(
    images: Sequence[Path],
    root: Path,
    form: ModuleType,
    folders: Folders,
    problems: Problems,
    *,
    labels_dir: Path | None = None,
) -> LabelPlaces:
    """The label file of each image; images whose labels are in doubt are reported and left out.

    A label file has the name of its image, and is looked for in this order: in the folder `form.FOLDER` that stands for
    the last 'images' in the image's path, that lies beside the image's folder (with its name below) or in it, or in
    `root`, or that stands for an earlier 'images'; right beside the image; and in a folder for all, beside the image's
    folder or in `root`. Two of these files that disagree, and one file for several images, are problems.

    Args:
        form: the format, a module with FOLDER and SUFFIX; its function `owner` says which of several images a file is
            for, `content` what two files are compared by.
        labels_dir: the only folder to look in, in the same subfolders as the images or without any.
    """
    places = LabelPlaces([])
    found: dict[Path, list[Path]] = {}
    parents = dict.fromkeys(image.parent for image in images)
    candidates = {parent: _candidates(parent, root, form.FOLDER, labels_dir) for parent in parents}
    all_folders = dict.fromkeys(folder for folders_of_one in candidates.values() for folder in folders_of_one)
    existing = {folder for folder in all_folders if folder.is_dir()}
    places.folders = [folder for folder in all_folders if folder in existing and folder not in parents]
    holding = {folder for folder in existing if folders.holds(folder, form.SUFFIX)}
    for parent in parents:
        candidates[parent] = [folder for folder in candidates[parent] if folder in holding]
    for image in images:
        name = label_name(image.name, form.SUFFIX)
        files = [folder / known for folder in candidates[image.parent] if (known := folders.match(folder, name))]
        if len(files) > 1:
            files = _own_files(files, image, form.FOLDER, folders)
        found[image] = files
    return _settle(found, form, places, problems)


def report_orphans(places: LabelPlaces, folders: Folders, problems: Problems, *, suffix: str) -> None:
    """Report label files that belong to no image on disk, among other label files or beside the images."""
    parents: dict[Path, set[Path]] = {}
    used = set(places.files.values())
    for image, file in places.files.items():
        parents.setdefault(file.parent, set()).add(image.parent)
    for folder, owners in parents.items():
        if folder in owners:
            _report_beside(folder, folders, problems, suffix=suffix)
            continue
        stems = _image_stems(owners, folders)
        names = [name for name in folders.names(folder) if name.lower().endswith(suffix) and name not in NOT_LABELS]
        orphans = [
            name for name in sorted(names) if os.path.splitext(name)[0] not in stems and folder / name not in used
        ]
        if orphans:  # a folder of labels for several folders of images, of which this split has some
            stems = _image_stems({path for owner in owners for path in owner.parent.glob("*/")}, folders)
        for name in orphans:
            if os.path.splitext(name)[0] not in stems:
                problems.add(folder / name, ORPHAN)


def _report_beside(folder: Path, folders: Folders, problems: Problems, *, suffix: str) -> None:
    """Report label files without an image in a folder of images, where files of other kinds may lie, too."""
    stems = _image_stems({folder}, folders)
    for name in sorted(folders.names(folder)):
        stem, ending = os.path.splitext(name)
        if ending.lower() == suffix and stem not in stems and name not in NOT_LABELS and _holds_labels(folder / name):
            problems.add(folder / name, ORPHAN)


def _holds_labels(file: Path) -> bool:
    """Whether a file begins as the labels of one image do: in VOC's, labelme's or YOLO's form."""
    try:
        with open_regular(file) as opened:
            head = opened.read(4000)
    except OSError:
        return False
    if file.suffix.lower() != ".txt":
        return b"<annotation>" in head or b'"shapes"' in head
    return re.match(rb"\s*[0-9]+(\s+-?[0-9]*[.,]?[0-9]+(e-?[0-9]+)?){4}", head) is not None


def report_other_format(
    forms: tuple[ModuleType, ModuleType],
    places: LabelPlaces,
    others: LabelPlaces,
    names: Sequence[str],
    problems: Problems,
) -> None:
    """Compare the label files in use with those of another format, by the number of objects of each class.

    Args:
        forms: the format in use, and the other one.
        places, others: the label files of each.
    """
    if not all(hasattr(form, "class_counts") for form in forms):
        return
    both = [image for image in places.files if image in others.files]
    looked = both[:: max(len(both) // COMPARED, 1)]
    differ = [
        image for image in looked if _counts(forms[0], places, image, names) != _counts(forms[1], others, image, names)
    ]
    if not differ:
        return
    used, other = (form.__name__.rpartition(".")[2].upper() for form in forms)
    first, second = places.files[differ[0]], others.files[differ[0]]
    many = f"{len(differ)} of {len(looked)} images that have labels in {other} too have other objects there"
    problems.add(
        first.parent,
        f"{many} (the first: {second}); the {used} files are used. Delete those that are wrong, or name the folder of "
        "the right ones with 'labels_dir'",
        KEPT,
    )


def _counts(form: ModuleType, places: LabelPlaces, image: Path, names: Sequence[str]) -> Hashable:
    try:
        counts = form.class_counts(read_regular(places.files[image]), names)
    except OSError:
        return None
    return frozenset(counts.items())


def shared_files(splits: Mapping[str, LabelledImages]) -> Iterator[tuple[str, LabelProblem]]:
    """The label files that images of different splits have in common, as (split, problem)."""
    users: dict[Path, tuple[str, Path]] = {}
    for split, data in splits.items():
        for image, file in data.label_files.items():
            other, first = users.setdefault(file, (split, image))
            if first != image:
                what = f"labels of {image}, and of {first} in {other}; give each image a label file of its own"
                yield split, LabelProblem(str(file), what, "used for both")


def _image_stems(parents: set[Path], folders: Folders) -> set[str]:
    return {os.path.splitext(name)[0] for parent in parents for name in folders.names(parent) if is_image(name)}


def _candidates(images: Path, root: Path, name: str, labels_dir: Path | None) -> list[Path]:
    """Folders where the labels of a folder of images may be, most likely first."""
    parts = images.parts
    inside = images.relative_to(root) if images.is_relative_to(root) else None
    if labels_dir is not None:
        below = inside or Path(images.name)
        mirrored = [Path(*below.parts[start:]) for start in range(len(below.parts))]
        return [*(labels_dir / part for part in mirrored), labels_dir]
    at = [position for position in reversed(range(len(parts))) if parts[position] in IMAGE_FOLDERS]
    standing = [Path(*parts[:position], name, *parts[position + 1 :]) for position in at]
    folders = [*standing[:1], images.parent / name / images.name, images / name]
    if inside is not None:
        folders.append(root / name / inside)
        folders += [folder for folder in standing[1:] if folder.is_relative_to(root)]  # images/deep/images
    return list(dict.fromkeys([*folders, images, images.parent / name, root / name]))


def _own_files(files: list[Path], image: Path, name: str, folders: Folders) -> list[Path]:
    """Without those that belong to another image of that name: labels/1.txt to images/1.jpg, not to extra/1.jpg."""
    own = []
    for file in files:
        others = [file.parent.parent / other for other in IMAGE_FOLDERS] if file.parent.name == name else []
        stem = os.path.splitext(image.name)[0]
        if not any(other != image.parent and folders.images(other, stem) for other in others):
            own.append(file)
    return own


def _settle(
    found: Mapping[Path, Sequence[Path]], form: ModuleType, places: LabelPlaces, problems: Problems
) -> LabelPlaces:
    """`places` with the images whose label file is not in doubt; the others are reported."""
    claims: dict[Path, list[Path]] = {}
    for image, files in found.items():
        if files:
            claims.setdefault(files[0], []).append(image)
    owners = {file: _owner(file, images, form, problems) for file, images in claims.items() if len(images) > 1}
    for image, files in found.items():
        if not files:
            places.images.append(image)
        elif files[0] in owners and owners[files[0]] != image:
            continue
        elif (other := _disagreeing(files, form)) is not None:
            problems.lost_file(
                files[0], f"labels of {image.name}, and {other} has others; delete or correct one of the two"
            )
        else:
            places.images.append(image)
            places.files[image] = files[0]
    return places


def _owner(file: Path, images: list[Path], form: ModuleType, problems: Problems) -> Path | None:
    """The one of several images that a label file belongs to, as far as it says so; the other images are reported."""
    same_folder = len({image.parent for image in images}) == 1
    shown = [image.name if same_folder else str(image) for image in images[:3]]
    more = f" and {len(images) - 3} more" if len(images) > 3 else ""
    owner: Path | None = form.owner(file, images) if hasattr(form, "owner") else None
    if owner is None:
        hint = (
            "give each image a label file of its own (other names, or folders), or delete the images that it is not for"
        )
        problems.lost_file(file, f"labels of {len(images)} images, {', '.join(shown)}{more}, but which? {hint}")
        return None
    for image in images:
        if image != owner:
            problems.add(image, f"its label file {file} names {owner.name} as its image", LEFT_OUT)
    return owner


def _disagreeing(files: Sequence[Path], form: ModuleType) -> Path | None:
    """The first label file that says something else than the first of all."""
    if len(files) < 2:
        return None
    try:
        content = getattr(form, "content", _rows)
        contents = [content(read_regular(file)) for file in files]
    except (OSError, ValueError):
        return files[1]
    return next((file for file, content in zip(files, contents, strict=True) if content != contents[0]), None)


def _rows(data: bytes) -> Hashable:
    """The rows of a text file, whatever their order and blanks."""
    return tuple(sorted(tuple(line.split()) for line in data.splitlines() if line.strip()))

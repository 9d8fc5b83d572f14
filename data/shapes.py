"""The embedded data set `shapes`: 1,200 pictures of ten kinds of shapes, drawn on first use as files in COCO form.

The files have the same bytes on every machine: `data/drawing` works in whole numbers alone, and `DIGEST` is the proof.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.drawing.figures import NAMES
from data.drawing.jpeg import encode_jpeg
from data.drawing.picture import draw
from utils.config import ConfigError
from utils.log import Progress, say

VERSION = 1
"""Raised whenever a byte of the set changes; a set of another version is drawn anew."""

DIGEST = "49f62a2f084018b696e02c17c43844dee110bca604e771f7302e98c0511fe1f8"
"""`set_digest` of the whole set."""

COUNTS = {"train": 1000, "val": 200}
"""Images per split."""

_MARKER = "complete.txt"
_THREADS = 8  # NumPy releases the interpreter lock only while it computes: more threads gain nothing

_DATA_YAML = """\
# The embedded data set of CSPDet. COCO JSON form; file_name in the JSON is relative to images/.
path: .
train: annotations/instances_train.json
val: annotations/instances_val.json
images: images
nc: {count}
names:
{names}"""

logger = logging.getLogger(__name__)


def ensure_shapes(root: Path | None = None) -> Path:
    """The data.yaml of the embedded data set in `root`/runs/data/shapes, drawn there if it is missing or out of date.

    The set appears all at once: it is drawn into a temporary folder and then renamed, so an interrupted drawing leaves
    no incomplete set. If several processes ask for it at once, one draws and the others wait.

    Args:
        root: the folder that the command was typed in by default.
    Raises:
        ConfigError: the folder cannot be written.
    """
    folder = (root or Path.cwd()) / "runs" / "data" / "shapes"
    if not _is_complete(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(folder.parent / ".shapes.lock") as alone:
                if not _is_complete(folder):
                    _draw_and_move(folder, alone=alone)
        except OSError as error:
            raise ConfigError(
                f"{error.filename or folder}: the embedded data set 'shapes' cannot be drawn into {folder} "
                f"({error.strerror or error}); make the folder writable, free 50 MB, or name another set with --data"
            ) from error
    return folder / "data.yaml"


def set_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of all files of the set in `folder`."""
    digest = hashlib.sha256()
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
        if name != _MARKER:
            content = (folder / name).read_bytes()
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def _marker() -> bytes:
    """Content of the marker file of a complete set of this version."""
    return f"shapes {VERSION} {DIGEST}\n".encode()


def _is_complete(folder: Path) -> bool:
    """Whether `folder` has a set of this version with all its files."""
    try:
        if (folder / _MARKER).read_bytes() != _marker():
            return False
        counts = {split: len(os.listdir(folder / "images" / split)) for split in COUNTS}
    except OSError:
        return False
    files = ["data.yaml", *(f"annotations/instances_{split}.json" for split in COUNTS)]
    return counts == COUNTS and all((folder / name).is_file() for name in files)


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[bool]:
    """Wait until no other process holds the lock; yield whether the system has locks.

    The lock is released with its process, however that ends. Without locks, two processes draw the same bytes and the
    renaming decides.
    """
    with path.open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except (ImportError, OSError):
            locked = False
        yield locked


def _draw_and_move(folder: Path, *, alone: bool) -> None:
    """Draws the set beside `folder` and moves it there, in place of what was there."""
    if alone:
        for remains in folder.parent.glob(".shapes-*"):
            shutil.rmtree(remains, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=".shapes-", dir=folder.parent))
    try:
        _draw_set(work / "set", shown_as=folder)
        if not _is_complete(folder):
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder, work / "old")
        try:
            os.replace(work / "set", folder)
        except OSError:
            if not _is_complete(folder):  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _draw_set(folder: Path, *, shown_as: Path) -> None:
    """All files of the set, the marker last."""
    total = sum(COUNTS.values())
    message = f"Drawing the embedded data set 'shapes' ({total:,} images) into {shown_as}"
    say(message, error=True)
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS))
    try:
        with Progress(total, "Drawing", every=10) as progress:
            for split in COUNTS:
                _draw_split(folder, split, pool, progress)
    finally:
        pool.shutdown(cancel_futures=True)
    names = "".join(f"  {label}: {name}\n" for label, name in enumerate(NAMES))
    (folder / "data.yaml").write_bytes(_DATA_YAML.format(count=len(NAMES), names=names).encode())
    digest = set_digest(folder)
    if digest != DIGEST:
        logger.warning(
            "The data set 'shapes' has other bytes here (SHA-256 %s) than elsewhere (%s). It can be used, but results "
            "may differ a little from published ones; please report this with your versions of Python and NumPy.",
            *(digest, DIGEST),
        )
    (folder / _MARKER).write_bytes(_marker())


def _draw_split(folder: Path, split: str, pool: ThreadPoolExecutor, progress: Progress) -> None:
    """Images and annotations of one split."""
    (folder / "images" / split).mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for image, objects in pool.map(lambda number: _draw_image(folder, split, number), range(COUNTS[split])):
        images.append(image)
        annotations += [{"id": len(annotations) + i, **entry} for i, entry in enumerate(objects, start=1)]
        progress.advance()
    _write_annotations(folder, split, images, annotations)


def _draw_image(folder: Path, split: str, number: int) -> tuple[dict, list[dict]]:
    """Writes one image; returns its COCO entry and those of its objects, still without ids."""
    picture = draw(split, number)
    height, width = picture.pixels.shape[:2]
    image_id = number + 1 + (COUNTS["train"] if split == "val" else 0)
    name = f"{split}/{image_id:06d}.jpg"
    (folder / "images" / name).write_bytes(encode_jpeg(picture.pixels))
    objects = [
        {"image_id": image_id, "category_id": label + 1, "bbox": list(box), "area": area, "iscrowd": 0}
        for label, box, area in zip(picture.labels, picture.boxes(), picture.areas(), strict=True)
    ]
    return {"id": image_id, "file_name": name, "width": width, "height": height}, objects


def _write_annotations(folder: Path, split: str, images: list[dict], annotations: list[dict]) -> None:
    content = {
        "info": {"description": f"The embedded data set 'shapes' of CSPDet, {split}", "version": str(VERSION)},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)],
    }
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(json.dumps(content, separators=(",", ":")).encode())

"""Tiny data sets on disk, in each format, for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.config import DataConfig, read_data_config
from data.read import read_split
from utils.structures import LabelledImages

HEIGHT, WIDTH = 40, 60
NAMES = ("cat", "dog", "owl")


def make_image(path: Path, height: int = HEIGHT, width: int = WIDTH, *, seed: int | None = None) -> Path:
    """An image of noise; different for each name unless `seed` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.name.encode()) if seed is None else seed)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def make_config(folder: Path, text: str) -> DataConfig:
    """`folder`/data.yaml with `text`, read."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data.yaml"
    path.write_text(text, encoding="utf-8")
    return read_data_config(path)


def make_coco(
    folder: Path,
    annotations: Sequence[Any],
    *,
    images: Sequence[Mapping[str, Any]] | None = None,
    categories: Sequence[Any] | None = None,
    indent: int | None = None,
    options: str = "",
) -> DataConfig:
    """A COCO data set with the images a.png (id 7) and b.png (id 3); categories 2 cat, 5 dog, 9 owl."""
    if images is None:
        images = [
            {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 3, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
        ]
        for image in images:
            make_image(folder / "images" / image["file_name"])
    if categories is None:
        categories = [{"id": 9, "name": "owl"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]
    content = {"info": {"year": 2024}, "images": images, "annotations": annotations, "categories": categories}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "val.json").write_text(json.dumps(content, indent=indent), encoding="utf-8")
    return make_config(folder, f"val: val.json\n{options}")


def annotation(number: int, box: Any, *, image: Any = 7, category: Any = 2, **more: Any) -> dict[str, Any]:
    """One COCO annotation, whole unless `more` says otherwise (None removes a key)."""
    area = box[2] * box[3] if isinstance(box, list) and len(box) == 4 else 0
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": 0, **more}
    return {key: value for key, value in entry.items() if value is not None}


def make_yolo(folder: Path, rows: Mapping[str, str | bytes | None], *, options: str = "") -> DataConfig:
    """A YOLO data set: one image and label file for each stem in `rows`; None makes no label file."""
    for stem, text in rows.items():
        make_image(folder / "images" / f"{stem}.png")
        if text is not None:
            (folder / "labels").mkdir(exist_ok=True)
            (folder / "labels" / f"{stem}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "val.txt").write_text("".join(f"./images/{stem}.png\n" for stem in rows))
    return make_config(folder, f"val: val.txt\nnames: {list(NAMES)}\n{options}")


def voc_object(name: str, box: Sequence[object], extra: str = "") -> str:
    """One <object> of VOC XML."""
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object>\n<name>{name}</name>{extra}\n<bndbox>{corners}</bndbox>\n</object>\n"


def make_voc(folder: Path, objects: Mapping[str, str | None], *, size: str = "", options: str = "") -> DataConfig:
    """A VOC data set: one image and XML file for each stem in `objects`; None makes no XML file."""
    for stem, text in objects.items():
        make_image(folder / "JPEGImages" / f"{stem}.png")
        if text is not None:
            (folder / "Annotations").mkdir(exist_ok=True)
            xml = f"<annotation>\n{size}{text}</annotation>\n"
            (folder / "Annotations" / f"{stem}.xml").write_text(xml)
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "val.txt").write_text("".join(f"{stem}\n" for stem in objects))
    return make_config(folder, f"val: ImageSets/Main/val.txt\nnames: {list(NAMES)}\n{options}")


def make_folders(folder: Path, classes: dict[str, int], *, split: str = "train") -> Path:
    """`folder`/`split`/CLASS/0.png, ... of so many images each."""
    for name, count in classes.items():
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            make_image(folder / split / name / f"{number}.png", seed=number)
    return folder / split


def folders_config(folder: Path, options: str = "") -> DataConfig:
    """The data set of `make_folders`, with the splits that are there."""
    splits = [split for split in ("train", "val") if (folder / split).is_dir()]
    return make_config(folder, "".join(f"{split}: {split}\n" for split in splits) + options)


def read_classes(config: DataConfig, split: str = "train") -> LabelledImages:
    """A split as a classifier sees it."""
    return read_split(config, split, task="classify")


def read(config: DataConfig) -> LabelledImages:
    """The split that all of these have."""
    return read_split(config, "val")


def said(data: LabelledImages) -> str:
    """All problems as one text."""
    return "\n".join(map(str, data.problems))

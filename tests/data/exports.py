"""One small data set in the form that each tool exports; what the tests of docs/own-data.md and new users begin with.

Every set shows the same: one.jpg and two.jpg (and three.jpg in val where the form has splits), 60 x 40 pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.data.tiny_sets import HEIGHT, WIDTH, make_image

BOXES = {
    "one": [("cat", (12, 8, 30, 24)), ("dog", (21, 10, 51, 36))],
    "two": [("dog", (6, 4, 24, 20))],
    "three": [("cat", (3, 2, 21, 32))],
}
"""Image -> class and corners of its objects, in pixels."""
CLASSES = ("cat", "dog")


def rows(stem: str) -> str:
    """YOLO rows."""
    return "".join(
        f"{CLASSES.index(name)} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} {(x2 - x1) / WIDTH} "
        f"{(y2 - y1) / HEIGHT}\n"
        for name, (x1, y1, x2, y2) in BOXES[stem]
    )


def coco(
    stems: Sequence[str], file_name: Callable[[str], str] = "{}.jpg".format, *, first_id: int = 1, group: str = ""
) -> dict[str, Any]:
    """COCO's lists; `group` is a category 0 above the others."""
    number = {name: index + first_id for index, name in enumerate(CLASSES)}
    images = [
        {"id": index, "file_name": file_name(stem), "height": HEIGHT, "width": WIDTH, "license": 1, "date_captured": ""}
        for index, stem in enumerate(stems)
    ]
    objects = [(index, name, box) for index, stem in enumerate(stems) for name, box in BOXES[stem]]
    annotations = [
        {"id": each, "image_id": image, "category_id": number[name], "bbox": [x1, y1, x2 - x1, y2 - y1],
         "area": (x2 - x1) * (y2 - y1), "segmentation": [], "iscrowd": 0}
        for each, (image, name, (x1, y1, x2, y2)) in enumerate(objects, start=1)
    ]  # fmt: skip
    above = [{"id": 0, "name": group, "supercategory": "none"}] if group else []
    categories = [{"id": number[name], "name": name, "supercategory": group or ""} for name in CLASSES]
    return {"info": {}, "images": images, "annotations": annotations, "categories": [*above, *categories]}


def put(folder: Path, stems: Sequence[str]) -> None:
    """Images in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        make_image(folder / f"{stem}.jpg")


def write(path: Path, content: Any) -> None:
    """A file with a text, or with a value as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def roboflow_yolo(folder: Path) -> Path:
    for name, stems in (("train", ("one", "two")), ("valid", ("three",))):
        put(folder / name / "images", stems)
        for stem in stems:
            write(folder / name / "labels" / f"{stem}.txt", rows(stem))
    write(
        folder / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n\n"
        "roboflow:\n  workspace: w\n  project: p\n  version: 1\n  license: CC BY 4.0\n  url: https://example.com/p\n",
    )
    return folder / "data.yaml"


def roboflow_coco(folder: Path) -> Path:
    for name, stems in (("train", ("one", "two")), ("valid", ("three",))):
        put(folder / name, stems)
        write(folder / name / "_annotations.coco.json", coco(stems, group="pets"))
    return folder


def ultralytics(folder: Path) -> Path:
    for name, stems in (("train", ("one", "two")), ("val", ("three",))):
        put(folder / "images" / name, stems)
        for stem in stems:
            write(folder / "labels" / name / f"{stem}.txt", rows(stem))
    write(
        folder / "pets.yaml",
        "path: pets # dataset root dir\ntrain: images/train\nval: images/val\ntest: # optional\ntask: detect\n"
        "channels: 3\nnames:\n  0: cat\n  1: dog\ndownload: |\n  from somewhere import download\n",
    )
    return folder / "pets.yaml"


def ultralytics_pose(folder: Path) -> Path:
    file = ultralytics(folder)
    for path in (folder / "labels").rglob("*.txt"):
        lines = [f"{line} {' '.join(line.split()[1:3])} 2 0 0 0" for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines))
    file.write_text(file.read_text() + "kpt_shape: [2, 3]\nflip_idx: [1, 0]\nkpt_names:\n  0: [nose, tail]\n")
    return file


def _corners(stem: str) -> list[tuple[int, list[float]]]:
    return [
        (CLASSES.index(name), [x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT, x1 / WIDTH,
                               y2 / HEIGHT])
        for name, (x1, y1, x2, y2) in BOXES[stem]
    ]  # fmt: skip


def ultralytics_obb(folder: Path) -> Path:
    file = ultralytics(folder)
    for path in (folder / "labels").rglob("*.txt"):
        path.write_text("".join(f"{label} {' '.join(map(str, xy))}\n" for label, xy in _corners(path.stem)))
    return file


def ultralytics_segment(folder: Path) -> Path:
    file = ultralytics(folder)
    for path in (folder / "labels").rglob("*.txt"):
        path.write_text("".join(f"{label} {' '.join(map(str, [*xy, *xy[:2]]))}\n" for label, xy in _corners(path.stem)))
    return file


def label_studio_coco(folder: Path) -> Path:
    put(folder / "images", ("ab12-one", "cd34-two"))
    names = {"one": "..\\..\\label-studio\\media\\upload\\4\\ab12-one.jpg", "two": "images/1/cd34-two.jpg"}
    write(folder / "result.json", coco(("one", "two"), names.__getitem__, first_id=0))
    return folder


def label_studio_coco_urls(folder: Path) -> Path:
    put(folder / "images", ("one", "two"))
    names = {"one": "/data/local-files/?d=pets%2Fone.jpg", "two": "http://host:8080/data/upload/1/two.jpg?x=1"}
    write(folder / "result.json", coco(("one", "two"), names.__getitem__, first_id=0))
    return folder


def label_studio_yolo(folder: Path) -> Path:
    put(folder / "images", ("one", "two"))
    for stem in ("one", "two"):
        write(folder / "labels" / f"{stem}.txt", rows(stem))
    write(folder / "classes.txt", "cat\ndog\n")
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
    write(folder / "notes.json", {"categories": categories, "info": {"year": 2024, "contributor": "Label Studio"}})
    return folder


def cvat_coco(folder: Path) -> Path:
    put(folder / "images" / "default", ("one", "two"))
    content = coco(("one", "two"))
    for entry in content["annotations"]:
        entry["attributes"] = {"occluded": False, "rotation": 0.0}
    write(folder / "annotations" / "instances_default.json", content)
    return folder


def cvat_yolo(folder: Path) -> Path:
    put(folder / "obj_train_data", ("one", "two"))
    for stem in ("one", "two"):
        write(folder / "obj_train_data" / f"{stem}.txt", rows(stem))
    write(folder / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(folder / "obj.names", "cat\ndog\n")
    write(folder / "train.txt", "data/obj_train_data/one.jpg\ndata/obj_train_data/two.jpg\n")
    return folder


def cvat_images(folder: Path) -> Path:
    put(folder / "images", ("one", "two", "three"))
    subset = {"one": "Train", "two": "Train", "three": "Validation"}
    labels = "".join(f"<label><name>{name}</name><color>#ff0000</color></label>" for name in CLASSES)
    images = "".join(
        f'<image id="{number}" name="{stem}.jpg" subset="{subset[stem]}" width="{WIDTH}" height="{HEIGHT}">\n'
        + "".join(
            f'<box label="{name}" source="manual" occluded="0" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" z_order="0">'
            '<attribute name="age">3</attribute></box>\n'
            for name, (x1, y1, x2, y2) in BOXES[stem]
        )
        + "</image>\n"
        for number, stem in enumerate(BOXES)
    )
    text = f"<annotations><version>1.1</version><meta><project><labels>{labels}</labels></project></meta>{images}"
    write(folder / "annotations.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}</annotations>\n')
    return folder


def labelme(folder: Path) -> Path:
    put(folder, ("one", "two"))
    for stem in ("one", "two"):
        shapes = [
            {"label": name, "points": [[x1, y1], [x2, y2]], "group_id": None, "shape_type": "rectangle", "flags": {}}
            for name, (x1, y1, x2, y2) in BOXES[stem]
        ]
        content = {"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.jpg", "imageData": None}
        write(folder / f"{stem}.json", {**content, "imageHeight": HEIGHT, "imageWidth": WIDTH})
    return folder


def voc_xml(stem: str) -> str:
    """One file of VOC's form, pixels from 1."""
    objects = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
        f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>\n"
        for name, (x1, y1, x2, y2) in BOXES[stem]
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return (
        f"<annotation><folder>x</folder><filename>{stem}.jpg</filename><path>C:\\me\\{stem}.jpg</path>{size}\n"
        f"{objects}</annotation>\n"
    )


def labelimg_xml(folder: Path) -> Path:
    put(folder, ("one", "two"))
    for stem in ("one", "two"):
        write(folder / f"{stem}.xml", voc_xml(stem))
    return folder


def labelimg_txt(folder: Path) -> Path:
    put(folder, ("one", "two"))
    for stem in ("one", "two"):
        write(folder / f"{stem}.txt", rows(stem))
    write(folder / "classes.txt", "cat\ndog\n")
    return folder


def darknet(folder: Path) -> Path:
    put(folder / "img", ("one", "two", "three"))
    for stem in BOXES:
        write(folder / "img" / f"{stem}.txt", rows(stem))
    write(folder / "train.txt", "/home/me/darknet/data/pets/img/one.jpg\n/home/me/darknet/data/pets/img/two.jpg\n")
    write(folder / "valid.txt", "data/pets/img/three.jpg\n")
    write(folder / "pets.names", "cat\ndog\n")
    write(
        folder / "pets.data",
        "classes= 2\ntrain  = data/pets/train.txt\nvalid  = data/pets/valid.txt\nnames = data/pets/pets.names\n"
        "backup = /home/me/backup/\neval=coco\n",
    )
    return folder / "pets.data"


def pascal_voc(folder: Path) -> Path:
    root = folder / "VOCdevkit" / "VOC2012"
    put(root / "JPEGImages", tuple(BOXES))
    for stem in BOXES:
        write(root / "Annotations" / f"{stem}.xml", voc_xml(stem))
    for name, stems in (("train", ("one", "two")), ("val", ("three",)), ("trainval", tuple(BOXES))):
        write(root / "ImageSets" / "Main" / f"{name}.txt", "".join(f"{stem}\n" for stem in stems))
    write(root / "ImageSets" / "Main" / "cat_train.txt", "one  1\ntwo -1\n")
    return folder


def annots_folder(folder: Path) -> Path:
    """As the kangaroo set: images/ and annots/."""
    put(folder / "images", ("one", "two"))
    for stem in ("one", "two"):
        write(folder / "annots" / f"{stem}.xml", voc_xml(stem))
    return folder


EXPORTS = {
    each.__name__: each
    for each in (
        roboflow_yolo, roboflow_coco, ultralytics, ultralytics_pose, ultralytics_obb, ultralytics_segment,
        label_studio_coco, label_studio_coco_urls, label_studio_yolo, cvat_coco, cvat_yolo, cvat_images, labelme,
        labelimg_xml, labelimg_txt, darknet, pascal_voc, annots_folder,
    )
}  # fmt: skip
"""Each writes its set into a folder, and returns what is given as --data."""
SPLIT = frozenset(
    {"roboflow_yolo", "roboflow_coco", "ultralytics", "ultralytics_pose", "ultralytics_obb", "ultralytics_segment",
     "cvat_images", "darknet", "pascal_voc"}
)  # fmt: skip
"""Those that have three.jpg in val."""
